"""HunyuanDiTPipeline: attention over the image; a CLIP's and a T5's text comes in by cross-attention."""

from collections.abc import Mapping
from typing import Any

import torch

from thinwire.runtime.families.family import Family, TextQuery

_ENCODERS = ("text_len", "text_len_t5")
"""The transformer's configuration fixes how many tokens each encoder gives."""


class HunyuanDiT(Family):
    """See the module."""

    pipeline_class = "HunyuanDiTPipeline"
    wrapper_class = "xFuserHunyuanDiTPipeline"
    default_max_sequence_length = 256

    def encode(self, pipeline: Any, query: TextQuery, device: torch.device) -> Mapping[str, Any]:
        """Encode prompt and negative prompt by both encoders."""
        arguments: dict[str, Any] = {}
        for index, length in enumerate(_ENCODERS):
            prompt, negative, mask, negative_mask = pipeline.encode_prompt(
                prompt=query.prompt,
                negative_prompt=query.negative_prompt,
                do_classifier_free_guidance=True,
                device=device,
                max_sequence_length=pipeline.transformer.config[length],
                text_encoder_index=index,
            )
            suffix = "_2" if index else ""
            arguments |= {
                f"prompt_embeds{suffix}": prompt,
                f"negative_prompt_embeds{suffix}": negative,
                f"prompt_attention_mask{suffix}": mask,
                f"negative_prompt_attention_mask{suffix}": negative_mask,
            }
        return arguments

    def call_arguments(self) -> Mapping[str, Any]:
        """Keep the size that is asked for."""
        return {"use_resolution_binning": False}

    def latent_channels(self, pipeline: Any, frames: int) -> int:
        """The learned variance is dropped before the branches meet."""
        return int(pipeline.transformer.config.in_channels)

    def attention_modules(self, transformer: Any) -> list[torch.nn.Module]:
        """Return every block's attention over the image."""
        return [block.attn1 for block in transformer.blocks]


FAMILY = HunyuanDiT()
