"""What a pipeline class must say about itself to be run: how it encodes text, and what its attention exchanges.

`Family` holds what most have in common; a family's module says what differs.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy
import torch
from numpy.typing import NDArray

from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import Generation

EndStep = Callable[[], None]


@dataclass(frozen=True, slots=True)
class TextQuery:
    """The text of one picture."""

    prompt: str
    negative_prompt: str
    guidance_scale: float
    max_sequence_length: int


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """What attention works on in one forward of the transformer, over all ranks."""

    layers: int
    batch: int
    image_rows: int
    """Rows of image tokens: a sequence is shared out by whole rows."""
    image_columns: int
    text_tokens: int
    """Those that attention over the image sees too; 0 where text comes in elsewhere."""
    heads: int
    head_dim: int
    latent_channels: int
    """Of what the transformer predicts; of a video, times its latent frames."""
    token_latents: int
    """Latents of one channel (and frame) in an image token."""
    frames: int = 1
    """Frames of tokens, of a video."""
    forwards: int = 1
    """How often the transformer runs in a step."""
    text_varies: bool = False
    """Whether text is as long as each prompt's; `text_tokens` is then the most."""

    @property
    def latents(self) -> int:
        """Latents of one channel (and frame) of one element of the batch."""
        return self.image_rows * self.image_columns * self.token_latents

    @property
    def image_tokens(self) -> int:
        """Image tokens of one element of the batch."""
        return self.frames * self.image_rows * self.image_columns


class Family:
    """One pipeline class, whose guidance is a batch of two unless its module says otherwise.

    xfuser's wrappers run both halves of that batch whatever the scale: a scale of 1 needs them too, so it is raised by
    the least that a float can hold, which changes no picture.
    """

    pipeline_class: ClassVar[str]
    wrapper_class: ClassVar[str] = ""
    """xfuser's class for it, or: """
    transformer_class: ClassVar[tuple[str, str] | None] = None
    """xfuser's module and class for its transformer alone; the pipeline is diffusers' own, with whole latents."""
    default_max_sequence_length: ClassVar[int]
    combines_inputs: ClassVar[bool] = False
    """Whether query, key and value share one Ulysses collective."""
    text_must_divide: ClassVar[bool] = False
    """Whether a text length that the sequence degree does not divide is silently wrong upstream."""
    guides_by_batch: ClassVar[bool] = True
    """Whether both guidance branches go through the transformer as one batch."""
    guides_by_forwards: ClassVar[bool] = False
    """Whether the transformer runs once for each guidance branch."""
    text_varies: ClassVar[bool] = False
    """Whether attention sees as much text as each prompt has: the text length is then the most that it may be."""
    shares_rows: ClassVar[bool] = True
    """Whether ranks share a picture by rows of tokens; otherwise by tokens, in their order."""
    makes_video: ClassVar[bool] = False

    def encode(self, pipeline: Any, query: TextQuery, device: torch.device) -> Mapping[str, Any]:
        """Return the arguments that stand for the text, for diffusers' pipeline and for xfuser's alike."""
        raise NotImplementedError

    def wrapper_arguments(self, guidance_scale: float) -> Mapping[str, Any]:
        """Return the further arguments of xfuser's pipeline call."""
        least = math.nextafter(1.0, 2.0) if self.guides_by_batch else 0.0
        return {"guidance_scale": max(guidance_scale, least), **self.call_arguments()}

    def plain_arguments(self, guidance_scale: float) -> Mapping[str, Any]:
        """Return the further arguments of diffusers' pipeline call."""
        return {"guidance_scale": guidance_scale, **self.call_arguments()}

    def call_arguments(self) -> Mapping[str, Any]:
        """Return what both calls need, whatever the text and the guidance."""
        return {}

    def step_arguments(self, end_step: EndStep) -> Mapping[str, Any]:
        """Return the arguments that have the wrapper call `end_step` after every step."""

        def ended(*_: object) -> dict[str, Any]:
            end_step()
            return {}

        return {"callback_on_step_end": ended}

    def pixels_of(self, output: Any) -> NDArray[numpy.float32]:
        """Return the one picture that a call gave: float32 [height, width, 3], or [frames, height, width, 3]."""
        pixels: NDArray[numpy.float32] = (output.frames if self.makes_video else output.images)[0]
        return pixels

    def attention_modules(self, transformer: Any) -> list[torch.nn.Module]:
        """Return the modules whose forward exchanges, in the order in which they run."""
        return [block.attn1 for block in transformer.transformer_blocks]

    def text_tokens(self, pipeline: Any, max_sequence_length: int) -> int:
        """Return how many text tokens attention over the image sees."""
        return 0

    def token_pixels(self, pipeline: Any) -> int:
        """Return the pixels along one side of an image token: a latent's, times the transformer's patch."""
        return int(pipeline.vae_scale_factor * pipeline.transformer.config.patch_size)

    def token_latents(self, pipeline: Any) -> int:
        """Return the latents of one channel (and frame) in a token."""
        return int(pipeline.transformer.config.patch_size) ** 2

    def token_frames(self, pipeline: Any, frames: int) -> int:
        """Return the frames of tokens that so many frames of a video become."""
        return 1

    def largest_side_pixels(self, pipeline: Any) -> int | None:
        """Return the longest side that the transformer can place, or None where there is no limit."""
        return None

    def attention_shape(self, pipeline: Any, generation: Generation, max_sequence_length: int) -> AttentionShape:
        """Return the shape of its attention for pictures of this size, as xfuser runs it."""
        config = pipeline.transformer.config
        token_pixels, frames = self.token_pixels(pipeline), max(1, generation.num_frames)
        return AttentionShape(
            layers=len(self.attention_modules(pipeline.transformer)),
            batch=2 if self.guides_by_batch else 1,
            image_rows=generation.height // token_pixels,
            image_columns=generation.width // token_pixels,
            text_tokens=self.text_tokens(pipeline, max_sequence_length),
            heads=config.num_attention_heads,
            head_dim=config.attention_head_dim,
            latent_channels=self.latent_channels(pipeline, frames),
            token_latents=self.token_latents(pipeline),
            frames=self.token_frames(pipeline, frames),
            forwards=2 if self.guides_by_forwards and generation.guidance_scale_milli > 1000 else 1,
            text_varies=self.text_varies,
        )

    def latent_channels(self, pipeline: Any, frames: int) -> int:
        """Return the channels that the transformer predicts; of a video, times its latent frames."""
        return int(pipeline.transformer.out_channels)
