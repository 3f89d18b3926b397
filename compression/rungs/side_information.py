"""The float32 that leads a coded payload: the tensor's largest scale."""

import torch
from torch import Tensor

from thinwire.compression.errors import PayloadError
from thinwire.compression.scales import SMALLEST_TOP

TOP_BYTES = 4
# A tensor within 2**60 has no larger scale; one that claims to would make bases overflow.
LARGEST_TOP = 2.0**80


def write_top(top: Tensor) -> Tensor:
    """Scalar float32 -> [4] uint8, little-endian."""
    return top.reshape(1).view(torch.uint8)


def read_top(payload: Tensor) -> Tensor:
    """Return the top as a scalar float32; raises PayloadError unless it is 0 or between 2**-100 and 2**80."""
    top = payload[:TOP_BYTES].clone().view(torch.float32)[0]
    value = float(top)
    if not (value == 0.0 or SMALLEST_TOP < value <= LARGEST_TOP):
        raise PayloadError(f"frame payload, top: expected 0 or a scale up to 2**80, got {value}; ask for a key frame")
    return top
