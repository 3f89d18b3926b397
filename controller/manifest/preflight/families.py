"""What must be known of a pipeline class before it runs. The runtime knows the rest; a test holds the two together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from thinwire.controller.manifest.preflight.strategies import Strategy

_TEXT = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")


@dataclass(frozen=True, slots=True)
class Family:
    """One pipeline class of diffusers.

    `latents_per_token` is the side of a token in latents beyond the transformer's own patch; `text_must_divide` says
    whether a text length that the ranks of a sequence do not divide goes silently wrong upstream. `layer_counts` are
    the keys of the transformer's configuration whose numbers (or lengths) add up to its attention layers;
    `guides_by_batch` whether both guidance branches run as one batch; `combines_inputs` whether query, key and value
    share a collective. `missing_upstream` and `refused` say why a strategy is not to be had.
    """

    pipeline: str
    required: tuple[str, ...]
    latents_per_token: int
    default_max_sequence_length: int
    text_must_divide: bool
    counts_clip_tokens: bool
    layer_counts: tuple[str, ...]
    guides_by_batch: bool
    combines_inputs: bool
    missing_upstream: Mapping[Strategy, str] = field(default_factory=dict)
    refused: Mapping[Strategy, str] = field(default_factory=dict)


FAMILIES = (
    Family(
        "StableDiffusion3Pipeline",
        required=("transformer", "vae", "scheduler", *_TEXT),
        latents_per_token=1,
        default_max_sequence_length=256,
        text_must_divide=False,
        counts_clip_tokens=True,
        layer_counts=("num_layers", "dual_attention_layers"),
        guides_by_batch=True,
        combines_inputs=False,
    ),
    Family(
        "FluxPipeline",
        required=("transformer", "vae", "scheduler", *_TEXT),
        latents_per_token=2,
        default_max_sequence_length=512,
        text_must_divide=True,
        counts_clip_tokens=False,
        layer_counts=("num_layers", "num_single_layers"),
        guides_by_batch=False,
        combines_inputs=True,
        missing_upstream={Strategy.CFG: "its guidance is an embedding: there is no second branch to share"},
    ),
)


def family_named(pipeline: str) -> Family | None:
    """Return the family of a class name, None for one that is not supported."""
    return next((family for family in FAMILIES if family.pipeline == pipeline), None)
