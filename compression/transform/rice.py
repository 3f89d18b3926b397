"""Golomb-Rice codes of small signed integers (Golomb 1966, Rice 1979), as vectors of bits.

An integer d becomes u = 2 d or -2 d - 1; then u >> k ones, a zero, and the low k bits of u, lowest first.
"""

import torch
from torch import Tensor

from thinwire.compression.errors import PayloadError

MAX_PARAMETER = 7
LARGEST = 31


def _unsigned(values_N: Tensor) -> Tensor:
    values = values_N.to(torch.int64)
    return torch.where(values < 0, -2 * values - 1, 2 * values)


def best_parameter(values_N: Tensor) -> tuple[int, int]:
    """Return the k that needs the fewest bits, and those bits."""
    unsigned = _unsigned(values_N)
    costs = [int((unsigned >> k).sum()) + (1 + k) * values_N.numel() for k in range(MAX_PARAMETER + 1)]
    least = min(costs)
    return costs.index(least), least


def affordable(values_N: Tensor, room_bits: int) -> tuple[Tensor, int, int]:
    """Return what of the values `room_bits` can say (at least one bit each), its k and its bits.

    If not everything, then the largest magnitudes, cut to what fits; the others become 0 and wait for another frame.
    """
    k, bits = best_parameter(values_N)
    if bits <= room_bits:
        return values_N, k, bits
    spare = room_bits - values_N.numel()
    cut = values_N.clamp(-(spare // 2), spare // 2)
    order = torch.argsort(-values_N.abs(), stable=True)
    paid = order[torch.cumsum(_unsigned(cut)[order], dim=0) <= spare]
    kept = torch.zeros_like(values_N)
    kept[paid] = cut[paid]
    return kept, 0, values_N.numel() + int(_unsigned(kept).sum())


def write(values_N: Tensor, k: int) -> Tensor:
    """Return the bits as [bits] uint8 of 0 and 1."""
    unsigned = _unsigned(values_N)
    ones = unsigned >> k
    ends = torch.cumsum(ones + 1 + k, dim=0)
    bits = torch.zeros(int(ends[-1]) if ends.numel() else 0, dtype=torch.uint8, device=values_N.device)
    starts = ends - (ones + 1 + k)
    run = torch.arange(int(ones.sum()), device=values_N.device)
    before = torch.cumsum(ones, dim=0) - ones
    bits[run + torch.repeat_interleave(starts - before, ones)] = 1
    for place in range(k):
        bits[starts + ones + 1 + place] = (unsigned >> place & 1).to(torch.uint8)
    return bits


def read(bits: list[int], start: int, count: int, k: int) -> tuple[list[int], int]:
    """Read `count` integers from `start` on; return them and where they end.

    Raises PayloadError past the end of `bits` and for integers beyond LARGEST.
    """
    values = []
    at = start
    for _ in range(count):
        ones = 0
        while at < len(bits) and bits[at] and ones <= 2 * LARGEST:
            ones += 1
            at += 1
        if at + 1 + k > len(bits) or bits[at]:
            raise PayloadError("frame payload: expected scale changes, got bits without an end; ask for a key frame")
        unsigned = ones << k | sum(bits[at + 1 + place] << place for place in range(k))
        at += 1 + k
        value = unsigned >> 1 if not unsigned & 1 else -(unsigned + 1 >> 1)
        if abs(value) > LARGEST:
            raise PayloadError(
                f"frame payload: expected scale changes up to {LARGEST}, got {value}; ask for a key frame"
            )
        values.append(value)
    return values, at
