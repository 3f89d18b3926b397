"""DistriFusion as it is defined, in one process: every shard's queries see its own keys and values as they are and the
others' as they were a step before. Written against diffusers' own attention, without xfuser, exchange or codec.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from tests.harness.sessions import Job
from thinwire.runtime.picture import Pixels
from thinwire.runtime.reference import Reference


@dataclass
class StaleAttention:
    """Takes the place of `F.scaled_dot_product_attention` while a pipeline runs.

    shards: which tokens of the transformer belong to each rank. Attention over another number of tokens is not the
    transformer's, but a text encoder's or the autoencoder's.
    """

    shards: Sequence[torch.Tensor]
    layers: int
    warmup_steps: int
    calls: int = 0
    last: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def __call__(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **options: Any) -> torch.Tensor:
        if query.shape[2] != sum(len(own) for own in self.shards):
            return _ORIGINAL(query, key, value, **options)
        layer, step = self.calls % self.layers, self.calls // self.layers
        self.calls += 1
        attend = _ORIGINAL
        if step < self.warmup_steps:
            out = attend(query, key, value, **options)
        else:
            last_key, last_value = self.last[layer]
            out = torch.empty_like(query)
            for own in self.shards:
                seen_key, seen_value = last_key.clone(), last_value.clone()
                seen_key[:, :, own], seen_value[:, :, own] = key[:, :, own], value[:, :, own]
                out[:, :, own] = attend(query[:, :, own], seen_key, seen_value, **options)
        self.last[layer] = (key, value)
        return out


_ORIGINAL = F.scaled_dot_product_attention


def stale_picture(job: Job, *, text_first: bool) -> Pixels:
    """Return the picture of a job's first prompt, computed as its ring would with the last step's keys and values.

    Image tokens are shared out by rows in order, text tokens likewise; in attention the text comes first or last.
    """
    spec = job.spec()
    reference = Reference.open(spec)
    generation, model = spec.generation, reference.model
    shape = model.attention_shape(generation)
    image, text, ranks = shape.image_tokens, shape.text_tokens, job.ring

    positions = torch.arange(image + text)
    texts, images = (positions[:text], positions[text:]) if text_first else (positions[image:], positions[:image])
    shards = [torch.cat(pair) for pair in zip(images.chunk(ranks), texts.chunk(ranks), strict=True)]
    stale = StaleAttention(shards, shape.layers, max(1, job.warmup_steps))
    F.scaled_dot_product_attention = stale
    try:
        return reference.generate_pixels(generation.prompts[0])
    finally:
        F.scaled_dot_product_attention = _ORIGINAL
