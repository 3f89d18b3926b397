"""CompactFusion's codecs (arXiv 2507.17511) as rungs whose bytes really travel: bench/compactfusion.py, packed.

Predictor order 0 and the encoder's feedback are the paper's first-order residual; its warm-up step is the raw key
frame. Scales travel as float16. A frame's header of 40 bytes, which the paper's do not have, is charged: 0.4 % at 1
bit. The rungs run on the eager kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thinwire.compression import Rung
from thinwire.compression.packing import BITS_1, BITS_2, BITS_4, Plane
from thinwire.compression.rungs.memory import RungMemory

_SCALE_BYTES = 2
_PLANES = {1: BITS_1, 2: BITS_2, 4: BITS_4}


@dataclass(frozen=True, slots=True)
class SignRung(Rung):
    """Sign times the rank-1 mean of magnitudes (section 4)."""

    name: str = "cf-1bit"
    wire_id: int = 240
    millibits: int = 1_000
    distortion: float = 0.3634
    carries_key_frames: bool = False

    def payload_bytes(self, rows: int, channels: int, dtype: torch.dtype) -> int:
        """Return a bit per value and a scale per row and channel."""
        return _SCALE_BYTES * (rows + channels) + BITS_1.stride(rows * channels)

    def encode(self, tensor_RC: Tensor, dtype: torch.dtype, memory: RungMemory) -> Tensor:
        """Write row scales, channel scales and signs."""
        magnitude_RC = tensor_RC.abs()
        mean = magnitude_RC.mean().clamp_min(1e-12)
        scales = torch.cat([magnitude_RC.mean(dim=1) / mean, magnitude_RC.mean(dim=0)]).half()
        signs = (tensor_RC >= 0).view(-1).to(torch.int16)
        return torch.cat([scales.view(torch.uint8), BITS_1.pack(signs)])

    def decode(
        self, payload: Tensor, rows: int, channels: int, dtype: torch.dtype, memory: RungMemory
    ) -> tuple[Tensor, RungMemory]:
        """Multiply."""
        scales, packed = _apart(payload, rows + channels)
        sign_RC = BITS_1.unpack(packed, rows * channels).view(rows, channels).float() * 2 - 1
        return sign_RC * scales[:rows, None] * scales[rows:], memory


@dataclass(frozen=True, slots=True)
class MinMaxRung(Rung):
    """Uniform levels between the least and the greatest value of every channel (dim 0) or token (dim 1)."""

    name: str
    wire_id: int
    bits: int
    dim: int
    millibits: int
    distortion: float
    carries_key_frames: bool = False

    def payload_bytes(self, rows: int, channels: int, dtype: torch.dtype) -> int:
        """Return the packed levels and two scales per channel or token."""
        return 2 * _SCALE_BYTES * (rows, channels)[1 - self.dim] + self._plane.stride(rows * channels)

    def encode(self, tensor_RC: Tensor, dtype: torch.dtype, memory: RungMemory) -> Tensor:
        """Write lows, highs and levels."""
        low, high = tensor_RC.amin(dim=self.dim).half(), tensor_RC.amax(dim=self.dim).half()
        offset, step = self._steps(low, high)
        levels_RC = ((tensor_RC - offset) / step).round().clamp(0, 2**self.bits - 1)
        packed = self._plane.pack(levels_RC.view(-1).to(torch.int16))
        return torch.cat([torch.cat([low, high]).view(torch.uint8), packed])

    def decode(
        self, payload: Tensor, rows: int, channels: int, dtype: torch.dtype, memory: RungMemory
    ) -> tuple[Tensor, RungMemory]:
        """Multiply and add."""
        groups = (rows, channels)[1 - self.dim]
        scales, packed = _apart(payload, 2 * groups)
        offset, step = self._steps(scales[:groups], scales[groups:])
        levels_RC = self._plane.unpack(packed, rows * channels).view(rows, channels).float()
        return levels_RC * step + offset, memory

    @property
    def _plane(self) -> Plane:
        return _PLANES[self.bits]

    def _steps(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        low, high = low.float().unsqueeze(self.dim), high.float().unsqueeze(self.dim)
        return low, ((high - low) / (2**self.bits - 1)).clamp_min(1e-12)


def _apart(payload: Tensor, scales: int) -> tuple[Tensor, Tensor]:
    end = _SCALE_BYTES * scales
    return payload[:end].clone().view(torch.float16).float(), payload[end:]


COMPACTFUSION_RUNGS: tuple[Rung, ...] = (
    SignRung(),
    MinMaxRung("cf-2bit", 241, bits=2, dim=0, millibits=2_000, distortion=0.1175),
    MinMaxRung("cf-int4", 242, bits=4, dim=1, millibits=4_000, distortion=0.01),
)
