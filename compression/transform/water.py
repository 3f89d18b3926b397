"""Reverse water-filling in whole bits: which component gets how many, from amplitudes that both ends know.

A bit more for a component of energy E saves E (D_b - D_{b+1}), D being the quantiser's distortions: the greedy order by
savings is optimal, because the savings of one component fall. Integers only (sixteenths of an octave), so that both
ends agree to the last bit, and no allocation travels.
"""

import math

import torch
from torch import Tensor

from thinwire.compression.transform.trellis import DISTORTIONS, MAX_BITS

# What bit b + 1 saves of a unit of energy, log2 in sixteenths.
GAINS = tuple(round(16 * math.log2(DISTORTIONS[bits] - DISTORTIONS[bits + 1])) for bits in range(MAX_BITS))
# A quarter octave of amplitude is half an octave of energy.
_SIXTEENTHS_PER_CODE = 8


def plane_bytes(counts: Tensor | list[int], rows: int) -> int:
    """Bytes of bit planes that hold one bit of each row for so many components."""
    return sum(-(-int(count) * rows // 8) for count in counts)


def bits_per_component(codes_C: Tensor, rows: int, available_bytes: int) -> Tensor:
    """Spread the bytes over components: [channels] int16 amplitude codes -> [channels] int64 bits, 0 to MAX_BITS.

    Grants go in order of savings, ties to the lower plane and then the lower component, until the next would not fit:
    bit plane p = 0, 1, ... takes ceil(rows x components with more than p bits / 8) bytes.
    """
    channels = codes_C.numel()
    gains = torch.tensor(GAINS, dtype=torch.int64, device=codes_C.device)
    savings = codes_C.to(torch.int64)[None, :] * _SIXTEENTHS_PER_CODE + gains[:, None]
    order = torch.argsort(-savings.flatten(), stable=True)  # the same saving: the lower plane, then the lower component
    granted_planes = torch.nn.functional.one_hot(order // max(channels, 1), MAX_BITS)
    counts = torch.cumsum(granted_planes, dim=0)
    costs = ((counts * rows + 7) // 8).sum(dim=1)
    granted = order[: int((costs <= available_bytes).sum())]
    return torch.bincount(granted % max(channels, 1), minlength=channels)[:channels]
