"""WanPipeline: video; attention over all frames' tokens, the two guidance branches one after the other.

xfuser has a transformer for it and no pipeline: diffusers' own pipeline runs, and every rank holds the whole latents. A
sequence that the degree does not divide is padded there with tokens that attention sees, so it is refused.
"""

from collections.abc import Mapping
from typing import Any

import torch

from thinwire.runtime.families.family import Family, TextQuery


class Wan(Family):
    """See the module."""

    pipeline_class = "WanPipeline"
    transformer_class = ("xfuser.model_executor.models.transformers.transformer_wan", "xFuserWanTransformer3DWrapper")
    default_max_sequence_length = 512
    makes_video = True
    guides_by_batch = False
    guides_by_forwards = True
    shares_rows = False

    def encode(self, pipeline: Any, query: TextQuery, device: torch.device) -> Mapping[str, Any]:
        """Encode the prompt, and the negative prompt where guidance asks for it."""
        prompt, negative = pipeline.encode_prompt(
            prompt=query.prompt,
            negative_prompt=query.negative_prompt,
            do_classifier_free_guidance=query.guidance_scale > 1,
            device=device,
            max_sequence_length=query.max_sequence_length,
        )
        return {"prompt_embeds": prompt, "negative_prompt_embeds": negative}

    def attention_modules(self, transformer: Any) -> list[torch.nn.Module]:
        """Return every block's attention over the video."""
        return [block.attn1 for block in transformer.blocks]

    def token_pixels(self, pipeline: Any) -> int:
        """A latent pixel is `vae_scale_factor_spatial` wide, a token a patch of them."""
        return int(pipeline.vae_scale_factor_spatial * pipeline.transformer.config.patch_size[-1])

    def token_latents(self, pipeline: Any) -> int:
        """Return the latents of one channel and frame in a token."""
        return int(pipeline.transformer.config.patch_size[-1]) ** 2

    def token_frames(self, pipeline: Any, frames: int) -> int:
        """The first frame has a latent of its own, then every `vae_scale_factor_temporal` have one together."""
        latents = (frames - 1) // int(pipeline.vae_scale_factor_temporal) + 1
        return latents // int(pipeline.transformer.config.patch_size[0])

    def latent_channels(self, pipeline: Any, frames: int) -> int:
        """Every latent frame's."""
        config = pipeline.transformer.config
        return int(config.out_channels) * self.token_frames(pipeline, frames) * int(config.patch_size[0])


FAMILY = Wan()
