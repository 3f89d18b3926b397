"""Pictures between the pipeline and the outside: floats as the model made them, then bytes."""

from dataclasses import dataclass

import numpy
from numpy.typing import NDArray
from PIL import Image

from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import Generation

DEFAULT_FRAMES_PER_SECOND = 8
Pixels = NDArray[numpy.float32]
"""float32 [height, width, 3], 0 to 1; of a video [frames, height, width, 3]."""


def pixels_shape(generation: Generation) -> tuple[int, ...]:
    """Return the shape of what a prompt becomes."""
    frames = (generation.num_frames,) if generation.num_frames else ()
    return (*frames, generation.height, generation.width, 3)


@dataclass(frozen=True, slots=True)
class Video:
    """Frames in order: uint8 [frames, height, width, 3]."""

    frames: NDArray[numpy.uint8]
    frames_per_second: int


Made = Image.Image | Video
"""What a prompt became."""


def to_bytes(pixels: Pixels) -> NDArray[numpy.uint8]:
    """Round to 8 bits a channel, as diffusers does."""
    return (pixels * 255).round().astype(numpy.uint8)


def made_of(pixels: Pixels, generation: Generation) -> Made:
    """Return the picture, or the video, of what a pipeline gave."""
    if pixels.ndim == 3:
        return Image.fromarray(to_bytes(pixels))
    return Video(to_bytes(pixels), generation.frames_per_second or DEFAULT_FRAMES_PER_SECOND)
