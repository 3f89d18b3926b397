"""Amplitudes in quarter octaves: code c stands for 2 ** (c / 4), and -c for its reciprocal."""

import torch
from torch import Tensor

from thinwire.compression.scales import thresholds

LIMIT = 240
_QUARTERS = tuple(2.0 ** (k / 4) for k in range(4))


def amplitudes(codes: Tensor) -> Tensor:
    """2 ** (codes / 4): any shape of integers within twice LIMIT -> float32."""
    quarters = torch.tensor(_QUARTERS, dtype=torch.float64, device=codes.device).to(torch.float32)
    whole = codes.to(torch.int32)
    return torch.ldexp(quarters[(whole % 4).long()], torch.div(whole, 4, rounding_mode="floor"))


def energy_codes(energies_N: Tensor) -> Tensor:
    """Codes whose squares are nearest (in the logarithm) to energies: [n] float32 -> [n] int16, within LIMIT."""
    mantissa, exponent = torch.frexp(energies_N)
    passed = (mantissa[:, None] >= thresholds(2, 0.5, energies_N.device)).sum(dim=1, dtype=torch.int32)
    codes = (2 * (exponent - 1) + passed).clamp(-LIMIT, LIMIT)
    return torch.where(energies_N > 0, codes, torch.full_like(codes, -LIMIT)).to(torch.int16)
