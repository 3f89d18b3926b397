"""CompactFusion's codecs (arXiv 2507.17511) as rungs whose bytes really travel: bench/compactfusion.py, packed.

Predictor order 0 and the encoder's feedback are the paper's first-order residual; its warm-up step is the raw key
frame. Scales travel as float16. A frame's header of 40 bytes, which the paper's do not have, is charged: 0.4 % at 1
bit. The rungs run on the eager kernel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from thinwire.compression import Rung
from thinwire.compression.packing import BITS_1, BITS_2, BITS_4, Plane
from thinwire.compression.rungs.low_rank import leading_directions
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


@dataclass(frozen=True, slots=True)
class FactorsRung(Rung):
    """Two factors of a residual, each in int4 between the least and the greatest value of its columns.

    The directions are found by subspace iteration, warm-started from the last frame's.
    """

    name: str
    wire_id: int
    rank: int
    millibits: int
    distortion: float
    carries_key_frames: bool = False

    def payload_bytes(self, rows: int, channels: int, dtype: torch.dtype) -> int:
        """Return both factors, packed, and two scales for every column of each."""
        return sum(_FACTOR.payload_bytes(size, self._ranks(rows, channels), dtype) for size in (rows, channels))

    def encode(self, tensor_RC: Tensor, dtype: torch.dtype, memory: RungMemory) -> Tensor:
        """Write the left factor and the right one."""
        left_RK = leading_directions(tensor_RC, self._ranks(*tensor_RC.shape), memory.right_factor)
        factors = (left_RK, tensor_RC.T @ left_RK)
        return torch.cat([_FACTOR.encode(factor, dtype, memory) for factor in factors])

    def decode(
        self, payload: Tensor, rows: int, channels: int, dtype: torch.dtype, memory: RungMemory
    ) -> tuple[Tensor, RungMemory]:
        """Multiply, one rank after the other, so that both ends get the same bits."""
        ranks = self._ranks(rows, channels)
        end = _FACTOR.payload_bytes(rows, ranks, dtype)
        left_RK, _ = _FACTOR.decode(payload[:end], rows, ranks, dtype, memory)
        right_CK, _ = _FACTOR.decode(payload[end:], channels, ranks, dtype, memory)
        values_RC = torch.zeros(rows, channels, device=payload.device)
        for rank in range(ranks):
            values_RC = values_RC + left_RK[:, rank, None] * right_CK[None, :, rank]
        return values_RC, replace(memory, right_factor=right_CK)

    def _ranks(self, rows: int, channels: int) -> int:
        return min(self.rank, rows, channels)


def _apart(payload: Tensor, scales: int) -> tuple[Tensor, Tensor]:
    end = _SCALE_BYTES * scales
    return payload[:end].clone().view(torch.float16).float(), payload[end:]


_FACTOR = MinMaxRung("cf-factor", 0, bits=4, dim=0, millibits=4_000, distortion=0.01)

COMPACTFUSION_RUNGS: tuple[Rung, ...] = (
    SignRung(),
    MinMaxRung("cf-2bit", 241, bits=2, dim=0, millibits=2_000, distortion=0.1175),
    MinMaxRung("cf-int4", 242, bits=4, dim=1, millibits=4_000, distortion=0.01),
    FactorsRung("cf-lowrank8", 243, rank=8, millibits=42, distortion=0.855),
    FactorsRung("cf-lowrank16", 244, rank=16, millibits=83, distortion=0.727),
    FactorsRung("cf-lowrank32", 245, rank=32, millibits=167, distortion=0.503),
)
