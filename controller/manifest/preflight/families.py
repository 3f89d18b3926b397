"""What must be known of a pipeline class before it runs. The runtime knows the rest; a test holds the two together."""

from __future__ import annotations

from dataclasses import dataclass

_TEXT = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")


@dataclass(frozen=True, slots=True)
class Family:
    """One pipeline class of diffusers.

    `latents_per_token` is the side of a token in latents beyond the transformer's own patch; `text_must_divide` says
    whether a text length that the ranks of a sequence do not divide goes silently wrong upstream.
    """

    pipeline: str
    required: tuple[str, ...]
    latents_per_token: int
    default_max_sequence_length: int
    text_must_divide: bool
    counts_clip_tokens: bool


FAMILIES = (
    Family("StableDiffusion3Pipeline", ("transformer", "vae", "scheduler", *_TEXT), 1, 256, False, True),
    Family("FluxPipeline", ("transformer", "vae", "scheduler", *_TEXT), 2, 512, True, False),
)


def family_named(pipeline: str) -> Family | None:
    """Return the family of a class name, None for one that is not supported."""
    return next((family for family in FAMILIES if family.pipeline == pipeline), None)
