"""HunyuanVideoPipeline: video; joint blocks then single blocks, guidance distilled into an embedding, batch of one.

xfuser has a transformer for it and no pipeline: diffusers' own pipeline runs, and every rank holds the whole latents.
Its text is cut to each prompt's own length, which every rank knows from encoding it; where the degree divides that
length the text is shared out, elsewhere every rank has all of it.
"""

from collections.abc import Mapping
from typing import Any

import torch

from thinwire.runtime.families.family import Family, TextQuery


class HunyuanVideo(Family):
    """See the module."""

    pipeline_class = "HunyuanVideoPipeline"
    transformer_class = (
        "xfuser.model_executor.models.transformers.transformer_hunyuan_video",
        "xFuserHunyuanVideoTransformer3DWrapper",
    )
    default_max_sequence_length = 256
    makes_video = True
    guides_by_batch = False
    shares_rows = False
    text_varies = True

    def encode(self, pipeline: Any, query: TextQuery, device: torch.device) -> Mapping[str, Any]:
        """Encode the prompt, with the mask of its words; there is no negative prompt without a second branch."""
        prompt, pooled, mask = pipeline.encode_prompt(
            prompt=query.prompt, device=device, max_sequence_length=query.max_sequence_length
        )
        return {"prompt_embeds": prompt, "pooled_prompt_embeds": pooled, "prompt_attention_mask": mask}

    def attention_modules(self, transformer: Any) -> list[torch.nn.Module]:
        """Return the joint blocks' attention, then the single blocks'."""
        return [block.attn for block in (*transformer.transformer_blocks, *transformer.single_transformer_blocks)]

    def text_tokens(self, pipeline: Any, max_sequence_length: int) -> int:
        """Return the most that a prompt has."""
        return max_sequence_length

    def token_pixels(self, pipeline: Any) -> int:
        """A latent pixel is `vae_scale_factor_spatial` wide, a token `patch_size` of them."""
        return int(pipeline.vae_scale_factor_spatial * pipeline.transformer.config.patch_size)

    def token_frames(self, pipeline: Any, frames: int) -> int:
        """The first frame has a latent of its own, then every `vae_scale_factor_temporal` have one together."""
        latents = (frames - 1) // int(pipeline.vae_scale_factor_temporal) + 1
        return latents // int(pipeline.transformer.config.patch_size_t)

    def latent_channels(self, pipeline: Any, frames: int) -> int:
        """Every latent frame's."""
        config = pipeline.transformer.config
        return int(config.out_channels) * self.token_frames(pipeline, frames) * int(config.patch_size_t)


FAMILY = HunyuanVideo()
