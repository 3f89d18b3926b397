"""Positive scales in 8 bits each: a float32 top and a code in sixteenths of an octave below it.

scale(code) = top * STEPS[code], STEPS[0] = 0, STEPS[c] = 2 ** ((c - 255) / 16) as float32: 15.9 octaves (96 dB) below
the largest scale of the tensor, each within 2.2 % when rounded to the nearest. At that error a Lloyd-Max quantiser
loses 0.01 dB; a 16-bit scale would cost 0.1 bit a value on a tensor of 96 channels.
"""

import torch
from torch import Tensor

STEPS_PER_OCTAVE = 16
# Below this a scale is zero: its reciprocal would leave float32's range, and no activation is that small.
SMALLEST_TOP = 2.0**-100

_OCTAVE = [2.0 ** (k / STEPS_PER_OCTAVE) for k in range(STEPS_PER_OCTAVE)]


def step_table(device: torch.device | str = "cpu") -> Tensor:
    """STEPS as [256] float32."""
    values = [0.0] + [_OCTAVE[(code + 1) % 16] * 2.0 ** ((code + 1) // 16 - 16) for code in range(1, 256)]
    return torch.tensor(values, dtype=torch.float64, device=device).to(torch.float32)


def inverse_step_table(device: torch.device | str = "cpu") -> Tensor:
    """1 / STEPS as [256] float32, with 0 for code 0."""
    steps = step_table(device)
    return torch.where(steps > 0, torch.ones_like(steps) / steps, torch.zeros_like(steps))


def thresholds(per_octave: int, offset: float, device: torch.device | str = "cpu") -> Tensor:
    """Mantissas in [0.5, 1) at which a code in `per_octave` steps changes: [per_octave] float32.

    offset 0.5 rounds to the nearest in the logarithm, 0 rounds up.
    """
    exponents = torch.arange(per_octave, dtype=torch.float64, device=device)
    return torch.exp2((exponents + offset) / per_octave - 1).to(torch.float32)


def _codes(ratios_N: Tensor, per_octave: int, *, upward: bool) -> Tensor:
    mantissa, exponent = torch.frexp(ratios_N)
    limits = thresholds(per_octave, 0.0 if upward else 0.5, ratios_N.device)
    passed = mantissa[:, None] > limits if upward else mantissa[:, None] >= limits
    return 255 + per_octave * (exponent - 1) + passed.sum(dim=1, dtype=torch.int32)


def nearest_codes(ratios_N: Tensor, *, squared: bool) -> Tensor:
    """Codes whose steps are nearest (in the logarithm) to ratios in [0, 1]: [n] float32 -> [n] uint8.

    squared: the ratios are squares of what the steps stand for. What is smaller than the smallest step gets code 0:
    nothing of it is coded, and feedback keeps it for later.
    """
    codes = _codes(ratios_N, STEPS_PER_OCTAVE // 2 if squared else STEPS_PER_OCTAVE, upward=False)
    kept = (ratios_N > 0) & (codes >= 1)
    return torch.where(kept, codes, torch.zeros_like(codes)).to(torch.uint8)


def upward_codes(ratios_N: Tensor) -> Tensor:
    """Codes of the smallest steps that are not below ratios in [0, 1]: [n] float32 -> [n] uint8; 0 for 0."""
    codes = _codes(ratios_N, STEPS_PER_OCTAVE, upward=True).clamp(min=1)
    return torch.where(ratios_N > 0, codes, torch.zeros_like(codes)).to(torch.uint8)
