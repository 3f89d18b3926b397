"""Pictures between the pipeline and the outside: floats as the model made them, then bytes."""

import numpy
from numpy.typing import NDArray
from PIL import Image

from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import Generation

Pixels = NDArray[numpy.float32]
"""float32 [height, width, 3], 0 to 1; of a video [frames, height, width, 3]."""


def pixels_shape(generation: Generation) -> tuple[int, ...]:
    """Return the shape of what a prompt becomes."""
    frames = (generation.num_frames,) if generation.num_frames else ()
    return (*frames, generation.height, generation.width, 3)


def to_image(pixels: Pixels) -> Image.Image:
    """Round to 8 bits a channel, as diffusers does."""
    return Image.fromarray((pixels * 255).round().astype(numpy.uint8))
