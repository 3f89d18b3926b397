"""What must be known of a pipeline class before it runs. The runtime knows the rest; a test holds the two together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from thinwire.controller.manifest.preflight.strategies import Strategy

_COMPONENTS = ("transformer", "vae", "scheduler", "text_encoder", "tokenizer")
_SECOND_ENCODER = ("text_encoder_2", "tokenizer_2")
_NO_STAGES = "its transformer has no stages"
_NO_SECOND_BRANCH = "its guidance is an embedding: there is no second branch to share"


class TextTokens(Enum):
    """What attention over the image sees of the text: nothing (it comes in by cross-attention), or these tokens."""

    NONE = "none"
    T5 = "t5"
    CLIP_AND_T5 = "clip and t5"


@dataclass(frozen=True, slots=True)
class Family:
    """One pipeline class of diffusers.

    `latents_per_token` is the side of a token in latents beyond the transformer's own patch; `layer_counts` are the
    keys of the transformer's configuration whose numbers (or lengths) add up to its attention layers; `text` says what
    attention over the image sees of it; `text_must_divide` whether a text length that the ranks of a sequence do not
    divide goes silently wrong upstream, `text_varies` whether it is as long as each prompt; `guides_by_batch` whether
    both guidance branches run as one batch, `guides_by_forwards` whether the transformer runs once for each;
    `shares_rows` whether ranks share a picture by rows of tokens, or else by tokens in their order; `combines_inputs`
    whether query, key and value share a collective. `latent_frames_step` is 0 for pictures; a video has 1 latent frame
    and a multiple of it. `missing_upstream` and `refused` say why a strategy is not to be had.
    """

    pipeline: str
    default_max_sequence_length: int
    required: tuple[str, ...] = _COMPONENTS
    latents_per_token: int = 1
    layer_counts: tuple[str, ...] = ("num_layers",)
    text: TextTokens = TextTokens.NONE
    text_must_divide: bool = False
    text_varies: bool = False
    guides_by_batch: bool = True
    guides_by_forwards: bool = False
    shares_rows: bool = True
    combines_inputs: bool = False
    latent_frames_step: int = 0
    missing_upstream: Mapping[Strategy, str] = field(default_factory=dict)
    refused: Mapping[Strategy, str] = field(default_factory=dict)

    @property
    def makes_video(self) -> bool:
        """Whether a prompt becomes frames."""
        return self.latent_frames_step > 0


FAMILIES = (
    Family(
        "StableDiffusion3Pipeline",
        default_max_sequence_length=256,
        required=(*_COMPONENTS, *_SECOND_ENCODER),
        layer_counts=("num_layers", "dual_attention_layers"),
        text=TextTokens.CLIP_AND_T5,
    ),
    Family(
        "FluxPipeline",
        default_max_sequence_length=512,
        required=(*_COMPONENTS, *_SECOND_ENCODER),
        latents_per_token=2,
        layer_counts=("num_layers", "num_single_layers"),
        text=TextTokens.T5,
        text_must_divide=True,
        guides_by_batch=False,
        combines_inputs=True,
        missing_upstream={Strategy.CFG: _NO_SECOND_BRANCH},
    ),
    Family("PixArtAlphaPipeline", default_max_sequence_length=120),
    Family("PixArtSigmaPipeline", default_max_sequence_length=300),
    Family("HunyuanDiTPipeline", default_max_sequence_length=256, required=(*_COMPONENTS, *_SECOND_ENCODER)),
    Family(
        "CogVideoXPipeline",
        default_max_sequence_length=226,
        text=TextTokens.T5,
        latent_frames_step=2,
        missing_upstream={Strategy.PIPEFUSION: "its wrapper has no stages"},
    ),
    Family(
        "WanPipeline",
        default_max_sequence_length=512,
        guides_by_batch=False,
        guides_by_forwards=True,
        shares_rows=False,
        latent_frames_step=1,
        missing_upstream={
            Strategy.PIPEFUSION: _NO_STAGES,
            Strategy.CFG: "its pipeline runs one branch after the other, on the same ranks",
        },
    ),
    Family(
        "HunyuanVideoPipeline",
        default_max_sequence_length=256,
        required=(*_COMPONENTS, *_SECOND_ENCODER),
        layer_counts=("num_layers", "num_single_layers"),
        text=TextTokens.T5,
        text_varies=True,
        guides_by_batch=False,
        shares_rows=False,
        latent_frames_step=1,
        missing_upstream={
            Strategy.PIPEFUSION: _NO_STAGES,
            Strategy.CFG: _NO_SECOND_BRANCH,
        },
    ),
)


NOT_RUN = {
    "QwenImagePipeline": (
        "its text is as long as each prompt, and xfuser pads it to a multiple of the ranks with tokens that attention "
        "sees: exact where the ranks divide a prompt's length, wrong in the third digit elsewhere"
    ),
    "ZImagePipeline": (
        "its image, its caption and both together are exchanged in three kinds of layers, each with tokens of its own, "
        "and a run here announces layers that are alike"
    ),
    "LTXPipeline": "xfuser has no transformer for it, only for LTX-2",
    "LTX2Pipeline": (
        "it makes a video with sound: what sound and picture see of each other is gathered beside the exchange that is "
        "coded and counted here, and sound has no place in the output"
    ),
}
"""Pipelines of newer families that thinwire does not run, and why."""


def family_named(pipeline: str) -> Family | None:
    """Return the family of a class name, None for one that is not supported."""
    return next((family for family in FAMILIES if family.pipeline == pipeline), None)
