"""StableDiffusion3Pipeline: joint attention over image and text.

xfuser's wrapper never passes `max_sequence_length`, so the text is encoded beforehand and given as embeddings.
"""

from collections.abc import Mapping
from typing import Any

import torch

from thinwire.runtime.families.family import Family, TextQuery


class StableDiffusion3(Family):
    """See the module."""

    pipeline_class = "StableDiffusion3Pipeline"
    wrapper_class = "xFuserStableDiffusion3Pipeline"
    default_max_sequence_length = 256

    def encode(self, pipeline: Any, query: TextQuery, device: torch.device) -> Mapping[str, Any]:
        """Encode prompt and negative prompt; both are needed even where guidance is off (see `Family`)."""
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

    def largest_side_pixels(self, pipeline: Any) -> int | None:
        """As far as its table of positions reaches."""
        reach = pipeline.transformer.config.pos_embed_max_size
        return None if reach is None else int(reach) * self.token_pixels(pipeline)


FAMILY = StableDiffusion3()
