"""PixArtAlphaPipeline and PixArtSigmaPipeline: attention over the image; text comes in by cross-attention.

The pipelines would move a picture's size to the nearest of a table of ratios; here the size asked for is the size made.
"""

from collections.abc import Mapping
from typing import Any

import torch

from thinwire.runtime.families.family import EndStep, Family, TextQuery


class PixArt(Family):
    """What both have in common."""

    def encode(self, pipeline: Any, query: TextQuery, device: torch.device) -> Mapping[str, Any]:
        """Encode prompt and negative prompt with their masks; the words are taken as they are written."""
        prompt, mask, negative, negative_mask = pipeline.encode_prompt(
            prompt=query.prompt,
            negative_prompt=query.negative_prompt,
            do_classifier_free_guidance=True,
            device=device,
            clean_caption=False,
            max_sequence_length=query.max_sequence_length,
        )
        return {
            "negative_prompt": None,
            "prompt_embeds": prompt,
            "prompt_attention_mask": mask,
            "negative_prompt_embeds": negative,
            "negative_prompt_attention_mask": negative_mask,
        }

    def call_arguments(self) -> Mapping[str, Any]:
        """Keep the size and the words."""
        return {"use_resolution_binning": False, "clean_caption": False}

    def step_arguments(self, end_step: EndStep) -> Mapping[str, Any]:
        """These pipelines have an older kind of callback."""
        return {"callback": lambda *_: end_step(), "callback_steps": 1}


class PixArtAlpha(PixArt):
    """See the module."""

    pipeline_class = "PixArtAlphaPipeline"
    wrapper_class = "xFuserPixArtAlphaPipeline"
    default_max_sequence_length = 120


class PixArtSigma(PixArt):
    """See the module."""

    pipeline_class = "PixArtSigmaPipeline"
    wrapper_class = "xFuserPixArtSigmaPipeline"
    default_max_sequence_length = 300


ALPHA, SIGMA = PixArtAlpha(), PixArtSigma()
