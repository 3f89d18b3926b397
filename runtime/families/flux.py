"""FluxPipeline: joint blocks then single blocks, guidance distilled into an embedding, batch of one.

A text length that the sequence degree does not divide is silently wrong in xfuser's wrapper, so it is refused.
"""

from collections.abc import Mapping
from typing import Any

import torch

from thinwire.runtime.families.family import Family, TextQuery


class Flux(Family):
    """See the module."""

    pipeline_class = "FluxPipeline"
    wrapper_class = "xFuserFluxPipeline"
    default_max_sequence_length = 512
    combines_inputs = True
    text_must_divide = True
    guides_by_batch = False

    def encode(self, pipeline: Any, query: TextQuery, device: torch.device) -> Mapping[str, Any]:
        """Encode the prompt; there is no negative prompt without classifier-free guidance."""
        prompt, pooled, _ = pipeline.encode_prompt(
            prompt=query.prompt, prompt_2=None, device=device, max_sequence_length=query.max_sequence_length
        )
        return {
            "prompt_embeds": prompt,
            "pooled_prompt_embeds": pooled,
            "max_sequence_length": query.max_sequence_length,
        }

    def attention_modules(self, transformer: Any) -> list[torch.nn.Module]:
        """Return the joint blocks' attention, then the single blocks'."""
        return [block.attn for block in (*transformer.transformer_blocks, *transformer.single_transformer_blocks)]

    def text_tokens(self, pipeline: Any, max_sequence_length: int) -> int:
        """T5's alone; CLIP gives one pooled vector."""
        return max_sequence_length

    def token_pixels(self, pipeline: Any) -> int:
        """Latents are packed two by two into tokens."""
        return int(pipeline.vae_scale_factor) * 2


FAMILY = Flux()
