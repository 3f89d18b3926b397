"""CompactFusion's codecs (NeurIPS 2025, arXiv 2507.17511) as fixed rungs of the same closed loop, by the paper's math.

The residual refers to the last decoded tensor, with error feedback; one warm-up step is whole. Scales, means and
factors travel as fp16 and are charged; the paper's own frames have no header, so none is charged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from bench.closed_loop import MakeCodec
from thinwire.compression import StreamId

# A coder takes [rows, channels] float32 and returns what is decoded and the bits that travelled.
Coder = Callable[[torch.Tensor], tuple[torch.Tensor, int]]

_FP16_BITS = 16


def one_bit(x_RC: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Sign times the rank-1 mean of magnitudes (section 4)."""
    magnitude_RC = x_RC.abs()
    mean = magnitude_RC.mean().clamp_min(1e-12)
    row_R = (magnitude_RC.mean(dim=1) / mean).half().float()
    column_C = magnitude_RC.mean(dim=0).half().float()
    sign_RC = torch.where(x_RC >= 0, 1.0, -1.0)
    return sign_RC * row_R[:, None] * column_C, x_RC.numel() + _FP16_BITS * sum(x_RC.shape)


def min_max(bits: int, dim: int) -> Coder:
    """Uniform levels between the least and the greatest value along `dim` (0: of a channel, 1: of a token)."""

    def code(x_RC: torch.Tensor) -> tuple[torch.Tensor, int]:
        low = x_RC.amin(dim=dim, keepdim=True).half().float()
        high = x_RC.amax(dim=dim, keepdim=True).half().float()
        step = ((high - low) / (2**bits - 1)).clamp_min(1e-12)
        levels = ((x_RC - low) / step).round().clamp(0, 2**bits - 1)
        return levels * step + low, bits * x_RC.numel() + 2 * _FP16_BITS * x_RC.shape[1 - dim]

    return code


def low_rank(rank: int) -> Coder:
    """Two factors of the best approximation of that rank, each in int4 per column of the factor."""
    int4 = min_max(4, 0)

    def code(x_RC: torch.Tensor) -> tuple[torch.Tensor, int]:
        u, s, v = torch.linalg.svd(x_RC, full_matrices=False)
        left, left_bits = int4(u[:, :rank] * s[:rank].sqrt())
        right, right_bits = int4(v[:rank].T.contiguous() * s[:rank].sqrt())
        return left @ right.T, left_bits + right_bits

    return code


CODERS: dict[str, Coder] = {
    "cf-1bit": one_bit,
    "cf-2bit": min_max(2, 0),
    "cf-int4": min_max(4, 1),
    "cf-lowrank8": low_rank(8),
    "cf-lowrank16": low_rank(16),
    "cf-lowrank32": low_rank(32),
}


@dataclass(slots=True)
class CompactFusionCodec:
    """One stream: the base is what was decoded last."""

    coder: Coder
    base: torch.Tensor | None = None

    @classmethod
    def maker(cls, name: str) -> MakeCodec:
        def make(stream: StreamId, rows: int, channels: int) -> CompactFusionCodec:
            return cls(CODERS[name])

        return make

    def travel(self, tensor_RC: torch.Tensor, step: int, *, key_frame: bool) -> tuple[torch.Tensor, int]:
        if key_frame or self.base is None:
            self.base = tensor_RC.half().float()
            return self.base, tensor_RC.numel() * _FP16_BITS // 8
        decoded_RC, bits = self.coder(tensor_RC - self.base)
        self.base = self.base + decoded_RC
        return self.base, -(-bits // 8)
