"""Pictures between the pipeline and the outside: floats as the model made them, then bytes."""

import numpy
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[numpy.float32]
"""float32 [height, width, 3], 0 to 1."""


def to_image(pixels: Pixels) -> Image.Image:
    """Round to 8 bits a channel, as diffusers does."""
    return Image.fromarray((pixels * 255).round().astype(numpy.uint8))
