"""What a pipeline class must say about itself to be run: how it encodes text, and what its attention exchanges."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch


@dataclass(frozen=True, slots=True)
class TextQuery:
    """The text of one picture."""

    prompt: str
    negative_prompt: str
    guidance_scale: float
    max_sequence_length: int


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """What attention works on in one forward of the transformer, over all ranks."""

    layers: int
    batch: int
    image_rows: int
    """Rows of image tokens: a sequence is shared out by whole rows."""
    image_columns: int
    text_tokens: int
    heads: int
    head_dim: int
    latent_channels: int
    """Of what the transformer predicts."""
    token_latents: int
    """Latents of one channel in an image token."""

    @property
    def latents(self) -> int:
        """Latents of one channel of one element of the batch."""
        return self.image_tokens * self.token_latents

    @property
    def image_tokens(self) -> int:
        """Image tokens of one element of the batch."""
        return self.image_rows * self.image_columns


class Family(Protocol):
    """One pipeline class."""

    pipeline_class: str
    wrapper_class: str
    """xfuser's class for it."""
    default_max_sequence_length: int
    combines_inputs: bool
    """Whether query, key and value share one Ulysses collective."""
    text_must_divide: bool
    """Whether a text length that the sequence degree does not divide is silently wrong upstream."""

    def encode(self, pipeline: Any, query: TextQuery, device: torch.device) -> Mapping[str, Any]:
        """Return the arguments that stand for the text, for diffusers' pipeline and for xfuser's alike."""

    def wrapper_arguments(self, guidance_scale: float) -> Mapping[str, Any]:
        """Return the further arguments of xfuser's pipeline call."""

    def plain_arguments(self, guidance_scale: float) -> Mapping[str, Any]:
        """Return the further arguments of diffusers' pipeline call."""

    def attention_modules(self, transformer: Any) -> list[torch.nn.Module]:
        """Return the modules whose forward exchanges, in the order in which they run."""

    def text_tokens(self, pipeline: Any, max_sequence_length: int) -> int:
        """Return how many text tokens the transformer sees."""

    def token_pixels(self, pipeline: Any) -> int:
        """Return the pixels along one side of an image token."""

    def largest_side_pixels(self, pipeline: Any) -> int | None:
        """Return the longest side that the transformer can place, or None where there is no limit."""

    def attention_shape(
        self, pipeline: Any, height: int, width: int, guidance_scale: float, max_sequence_length: int
    ) -> AttentionShape:
        """Return the shape of its attention for pictures of this size in pixels, as xfuser's pipeline runs it."""


def joint_attention_shape(
    family: Family, pipeline: Any, height: int, width: int, max_sequence_length: int, batch: int
) -> AttentionShape:
    """Return the shape of joint attention over text and image, for pictures of this size in pixels."""
    config = pipeline.transformer.config
    token_pixels = family.token_pixels(pipeline)
    return AttentionShape(
        layers=len(family.attention_modules(pipeline.transformer)),
        batch=batch,
        image_rows=height // token_pixels,
        image_columns=width // token_pixels,
        text_tokens=family.text_tokens(pipeline, max_sequence_length),
        heads=config.num_attention_heads,
        head_dim=config.attention_head_dim,
        latent_channels=int(pipeline.transformer.out_channels),
        token_latents=int(config.patch_size) ** 2,
    )
