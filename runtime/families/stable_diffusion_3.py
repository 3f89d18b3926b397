"""StableDiffusion3Pipeline: joint attention over image and text, guidance by a batch of two.

Two habits of xfuser's wrapper matter here. It never passes `max_sequence_length`, so the text is encoded beforehand and
given as embeddings. And it runs both halves of the guidance batch whatever the scale: a scale of 1 needs them too, so
it is raised by the least that a float can hold, which changes no picture.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch

from thinwire.runtime.families.family import AttentionShape, TextQuery, joint_attention_shape


class StableDiffusion3:
    """See the module."""

    pipeline_class = "StableDiffusion3Pipeline"
    wrapper_class = "xFuserStableDiffusion3Pipeline"
    default_max_sequence_length = 256
    combines_inputs = False
    text_must_divide = False

    def encode(self, pipeline: Any, query: TextQuery, device: torch.device) -> Mapping[str, Any]:
        """Encode prompt and negative prompt; both are needed even where guidance is off (see the module)."""
        prompt, negative, pooled, negative_pooled = pipeline.encode_prompt(
            prompt=query.prompt,
            prompt_2=None,
            prompt_3=None,
            negative_prompt=query.negative_prompt,
            do_classifier_free_guidance=True,
            device=device,
            max_sequence_length=query.max_sequence_length,
        )
        return {
            "prompt_embeds": prompt,
            "negative_prompt_embeds": negative,
            "pooled_prompt_embeds": pooled,
            "negative_pooled_prompt_embeds": negative_pooled,
        }

    def wrapper_arguments(self, guidance_scale: float) -> Mapping[str, Any]:
        """Guidance above 1, always."""
        return {"guidance_scale": max(guidance_scale, math.nextafter(1.0, 2.0))}

    def plain_arguments(self, guidance_scale: float) -> Mapping[str, Any]:
        """Guidance as asked for."""
        return {"guidance_scale": guidance_scale}

    def attention_modules(self, transformer: Any) -> list[torch.nn.Module]:
        """Each block's joint attention, then its second attention over the image alone where it has one."""
        modules: list[torch.nn.Module] = []
        for block in transformer.transformer_blocks:
            modules.append(block.attn)
            if getattr(block, "attn2", None) is not None:
                modules.append(block.attn2)
        return modules

    def text_tokens(self, pipeline: Any, max_sequence_length: int) -> int:
        """CLIP's positions, then T5's (or the zeros in its place)."""
        return int(pipeline.tokenizer_max_length) + max_sequence_length

    def token_pixels(self, pipeline: Any) -> int:
        """A latent pixel is `vae_scale_factor` wide, a token `patch_size` of them."""
        return int(pipeline.vae_scale_factor * pipeline.transformer.config.patch_size)

    def largest_side_pixels(self, pipeline: Any) -> int | None:
        """As far as its table of positions reaches."""
        reach = pipeline.transformer.config.pos_embed_max_size
        return None if reach is None else int(reach) * self.token_pixels(pipeline)

    def attention_shape(
        self, pipeline: Any, height: int, width: int, guidance_scale: float, max_sequence_length: int
    ) -> AttentionShape:
        """Both halves of the guidance batch go through every layer together."""
        return joint_attention_shape(self, pipeline, height, width, max_sequence_length, batch=2)


FAMILY = StableDiffusion3()
