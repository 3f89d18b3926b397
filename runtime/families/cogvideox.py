"""CogVideoXPipeline: video; joint attention over text and all frames, shared out by rows of every frame."""

from collections.abc import Mapping
from typing import Any

import torch

from thinwire.runtime.families.family import Family, TextQuery


class CogVideoX(Family):
    """See the module."""

    pipeline_class = "CogVideoXPipeline"
    wrapper_class = "xFuserCogVideoXPipeline"
    default_max_sequence_length = 226
    makes_video = True

    def encode(self, pipeline: Any, query: TextQuery, device: torch.device) -> Mapping[str, Any]:
        """Encode prompt and negative prompt."""
        prompt, negative = pipeline.encode_prompt(
            prompt=query.prompt,
            negative_prompt=query.negative_prompt,
            do_classifier_free_guidance=True,
            device=device,
            max_sequence_length=query.max_sequence_length,
        )
        return {
            "prompt_embeds": prompt,
            "negative_prompt_embeds": negative,
            "max_sequence_length": query.max_sequence_length,
        }

    def text_tokens(self, pipeline: Any, max_sequence_length: int) -> int:
        """T5's."""
        return max_sequence_length

    def token_pixels(self, pipeline: Any) -> int:
        """A latent pixel is `vae_scale_factor_spatial` wide, a token `patch_size` of them."""
        return int(pipeline.vae_scale_factor_spatial * pipeline.transformer.config.patch_size)

    def token_frames(self, pipeline: Any, frames: int) -> int:
        """A latent frame each, or `patch_size_t` of them together."""
        return -(-self._latent_frames(pipeline, frames) // int(pipeline.transformer.config.patch_size_t or 1))

    def latent_channels(self, pipeline: Any, frames: int) -> int:
        """Every latent frame's."""
        return int(pipeline.transformer.config.out_channels) * self._latent_frames(pipeline, frames)

    def _latent_frames(self, pipeline: Any, frames: int) -> int:
        """The first frame has a latent of its own, then every `vae_scale_factor_temporal` have one together."""
        return (frames - 1) // int(pipeline.vae_scale_factor_temporal) + 1


FAMILY = CogVideoX()
