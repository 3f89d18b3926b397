"""Low rank: a residual as the product of two thin factors, for residuals that a few directions explain.

The encoder finds the factors by a randomised range finder with one power iteration (Halko, Martinsson and Tropp 2011,
algorithm 4.3), warm-started from the factor that the last frame carried (PowerSGD, arXiv 1905.13727). Fresh directions
stand beside the warm ones: what a frame has carried whole is gone from the next residual, so its basis alone may see
nothing. The decoder multiplies what was sent, one rank at a time, so both ends get the same bits whatever found it.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from thinwire.compression.errors import NonFiniteError, PayloadError
from thinwire.compression.packing import BITS_4, pack, packed_bytes, unpack
from thinwire.compression.rungs.base import Rung
from thinwire.compression.rungs.memory import RungMemory
from thinwire.compression.rungs.per_token import LARGEST
from thinwire.compression.rungs.side_information import TOP_BYTES, read_top, write_top
from thinwire.compression.scales import SMALLEST_TOP, step_table, upward_codes

INT4_LEVELS = 7
RIDGE = 1e-6


@dataclass(frozen=True, slots=True)
class LowRankRung(Rung):
    """value = sum over k of (left[row, k] * scale(k)) * right[channel, k], k below min(rank, rows, channels).

    Factors travel in float16 within -1 ... 1, or with `int4_factors` as integers within -7 ... 7. millibits: of the
    factors at 1,024 rows x 3,072 channels; at other shapes a value costs more or less. Payload: top, one scale code per
    rank, left factor, right factor, both row by row.
    """

    name: str
    wire_id: int
    millibits: int
    distortion: float
    rank: int
    int4_factors: bool
    carries_key_frames: bool = False

    def payload_bytes(self, rows: int, channels: int, dtype: torch.dtype) -> int:
        """Return 4 + ranks + left factor + right factor."""
        ranks = self._ranks(rows, channels)
        return TOP_BYTES + ranks + self._factor_bytes(rows * ranks) + self._factor_bytes(channels * ranks)

    def encode(self, tensor_RC: Tensor, dtype: torch.dtype, memory: RungMemory) -> Tensor:
        """Find the directions with the most energy and quantise both factors; raises NonFiniteError beyond 2**61.

        The right factor is fitted by least squares to the left one as it was quantised.
        """
        ranks = self._ranks(*tensor_RC.shape)
        largest = tensor_RC.abs().amax() if tensor_RC.numel() else tensor_RC.new_zeros(())
        if not bool(largest <= LARGEST):
            raise NonFiniteError(f"{self.name}: expected finite values up to 2**61, got {float(largest)}; send it raw")
        if not bool(largest > SMALLEST_TOP):
            largest = torch.ones_like(largest)
        x_RC = tensor_RC / largest
        limit = INT4_LEVELS if self.int4_factors else 1
        left_RK = leading_directions(x_RC, ranks, memory.right_factor)
        left_RK = self._rounded(left_RK * (limit / left_RK.abs().amax(dim=0))) if ranks else left_RK
        right_CK = _fitted(x_RC, left_RK)
        wanted_K = right_CK.abs().amax(dim=0) * (largest / limit) if ranks else right_CK.new_zeros(0)
        top = wanted_K.max() if ranks else tensor_RC.new_zeros(())
        if not bool(top > SMALLEST_TOP):
            top, wanted_K = torch.zeros_like(top), torch.zeros_like(wanted_K)
        codes_K = upward_codes(wanted_K / top) if bool(top > 0) else torch.zeros_like(wanted_K, dtype=torch.uint8)
        scale_K = top * step_table(tensor_RC.device)[codes_K.long()]
        inverse_K = torch.where(scale_K > 0, largest / scale_K, torch.zeros_like(scale_K))
        right_CK = self._rounded((right_CK * inverse_K).clamp(-limit, limit))
        return torch.cat([write_top(top), codes_K, self._written(left_RK), self._written(right_CK)])

    def decode(
        self, payload: Tensor, rows: int, channels: int, dtype: torch.dtype, memory: RungMemory
    ) -> tuple[Tensor, RungMemory]:
        """Multiply out, one rank after the other; raises PayloadError for a top or an element that cannot be."""
        ranks = self._ranks(rows, channels)
        top = read_top(payload)
        scale_K = top * step_table(payload.device)[payload[TOP_BYTES : TOP_BYTES + ranks].long()]
        left_at = TOP_BYTES + ranks
        right_at = left_at + self._factor_bytes(rows * ranks)
        left_RK = self._read(payload[left_at:right_at], rows, ranks) * scale_K
        right_CK = self._read(payload[right_at:], channels, ranks)
        values_RC = torch.zeros(rows, channels, dtype=torch.float32, device=payload.device)
        for rank in range(ranks):
            values_RC = values_RC + left_RK[:, rank, None] * right_CK[None, :, rank]
        return values_RC, replace(memory, right_factor=right_CK)

    def _ranks(self, rows: int, channels: int) -> int:
        return min(self.rank, rows, channels)

    def _factor_bytes(self, elements: int) -> int:
        return packed_bytes((BITS_4,), elements) if self.int4_factors else 2 * elements

    def _rounded(self, factor: Tensor) -> Tensor:
        return factor.round() if self.int4_factors else factor.to(torch.float16).to(torch.float32)

    def _written(self, factor: Tensor) -> Tensor:
        if self.int4_factors:
            return pack((BITS_4,), (factor + INT4_LEVELS).to(torch.int16).view(-1))
        return factor.to(torch.float16).contiguous().view(-1).view(torch.uint8)

    def _read(self, data: Tensor, length: int, ranks: int) -> Tensor:
        """[length, ranks] float32."""
        if self.int4_factors:
            codes = unpack((BITS_4,), data, length * ranks)
            if bool((codes > 2 * INT4_LEVELS).any()):
                raise PayloadError(f"frame payload: expected codes up to {2 * INT4_LEVELS}; ask for a key frame")
            return (codes - INT4_LEVELS).to(torch.float32).view(length, ranks)
        factor = data.clone().view(torch.float16).to(torch.float32).view(length, ranks)
        if not bool((factor.abs() <= 1).all()):
            raise PayloadError("frame payload: expected factors within -1 and 1; ask for a key frame")
        return factor


def leading_directions(x_RC: Tensor, ranks: int, warm_CK: Tensor | None) -> Tensor:
    """Return [rows, ranks] orthonormal float32: where most of the energy of `x_RC` lies.

    ranks: at most rows and channels. warm: [channels, any] directions to try first.
    """
    sketch_CS = _signs(x_RC.shape[1], ranks, x_RC.device)
    if warm_CK is not None:
        sketch_CS = torch.cat([warm_CK[:, :ranks], sketch_CS], dim=1)
    span_RS = torch.linalg.qr(x_RC @ sketch_CS).Q
    span_RS = torch.linalg.qr(x_RC @ (x_RC.mT @ span_RS)).Q
    turned_SS = torch.linalg.svd(span_RS.mT @ x_RC, full_matrices=False).U
    leading_RK: Tensor = span_RS @ turned_SS[:, :ranks]
    return leading_RK


def _signs(channels: int, ranks: int, device: torch.device) -> Tensor:
    """[channels, ranks] of 1 and -1 without pattern, the same every time."""
    index = torch.arange(1, channels * ranks + 1, dtype=torch.int64, device=device)
    mixed = index * 0x2545F4914F6CDD1D
    mixed = (mixed ^ mixed >> 29) * 0x1B873593CC9E2D51
    return ((mixed >> 40 & 1) * 2 - 1).to(torch.float32).view(channels, ranks)


def _fitted(x_RC: Tensor, left_RK: Tensor) -> Tensor:
    """Return the right factor with which `left_RK` explains `x_RC` best: [channels, ranks] float32."""
    left = left_RK.double()
    gram_KK = left.mT @ left
    ridge = RIDGE * gram_KK.diagonal().mean() if gram_KK.numel() else 0.0
    gram_KK = gram_KK + ridge * torch.eye(gram_KK.shape[0], dtype=torch.float64, device=x_RC.device)
    right_KC: Tensor = torch.linalg.solve(gram_KK, (left_RK.mT @ x_RC).double())
    return right_KC.mT.to(torch.float32)


def _rung(rank: int, millibits: int, distortion: float, *, int4_factors: bool = False) -> LowRankRung:
    return LowRankRung(
        name=f"lowrank{rank}-int4" if int4_factors else f"lowrank{rank}",
        wire_id=10 if int4_factors else 9,
        millibits=millibits,
        distortion=distortion,
        rank=rank,
        int4_factors=int4_factors,
    )


LOW_RANK_8 = _rung(8, 167, 0.85)
LOW_RANK_16 = _rung(16, 333, 0.72)
LOW_RANK_32 = _rung(32, 667, 0.49)
LOW_RANK_8_INT4 = _rung(8, 42, 0.855, int4_factors=True)
LOW_RANK_16_INT4 = _rung(16, 83, 0.727, int4_factors=True)
LOW_RANK_32_INT4 = _rung(32, 167, 0.503, int4_factors=True)
