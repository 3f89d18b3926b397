"""Codes of the scalar rungs in the Triton kernel: what they mean as values, and how they lie in a payload's bytes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from thinwire.compression.errors import PayloadError
from thinwire.compression.kernels import triton_passes as passes
from thinwire.compression.packing import Plane, packed_bytes
from thinwire.compression.rungs.base import Rung
from thinwire.compression.rungs.per_token import PerTokenRung
from thinwire.compression.rungs.rank_one import RankOneRung
from thinwire.compression.rungs.side_information import TOP_BYTES, read_top
from thinwire.compression.scales import inverse_step_table, step_table

TILE = 128
"""Channels, or bytes, that one program of a pass takes."""
EXACT = {"enable_fp_fusion": False}
"""How passes that compute are launched: no fused multiply-add where the reference has two operations."""


@dataclass(frozen=True, slots=True)
class Codes:
    """What turns codes into values: kind of pass, scales per row and per channel, thresholds and levels."""

    kind: int
    count: int
    row_R: Tensor
    row_inverse_R: Tensor
    step_C: Tensor
    step_inverse_C: Tensor
    thresholds: Tensor
    levels: Tensor


def no_codes(kind: int, device: torch.device) -> Codes:
    """Return what stands for codes where values are given."""
    nothing = torch.empty(1, device=device)
    return Codes(kind, 0, nothing, nothing, nothing, nothing, nothing, nothing)


def codes_of(
    rung: Rung, top: Tensor, row_codes: Tensor, column_codes: Tensor | None, inverse_R: Tensor | None = None
) -> Codes:
    """Return what a scalar rung's codes mean beside these scales; inverse_R: what encoding per token divides by."""
    device = row_codes.device
    row_R = top * step_table(device)[row_codes.long()]
    nothing = torch.empty(1, device=device)
    row_inverse_R = nothing if inverse_R is None else inverse_R
    if column_codes is None:
        assert isinstance(rung, PerTokenRung)
        return Codes(passes.PER_TOKEN.value, rung.levels, row_R, row_inverse_R, nothing, nothing, nothing, nothing)
    assert isinstance(rung, RankOneRung)
    return Codes(
        passes.RANK_ONE.value,
        len(rung.levels),
        row_R,
        row_inverse_R,
        step_table(device)[column_codes.long()],
        inverse_step_table(device)[column_codes.long()],
        torch.tensor(rung.thresholds, dtype=torch.float32, device=device),
        torch.tensor(rung.levels, dtype=torch.float32, device=device),
    )


def read_codes(rung: Rung, payload: Tensor, rows: int, channels: int) -> tuple[Codes, int]:
    """Return what the payload's scales make of its codes, and where its planes begin."""
    top, at = read_top(payload), TOP_BYTES + rows
    row_codes = payload[TOP_BYTES:at]
    if isinstance(rung, PerTokenRung):
        return codes_of(rung, top, row_codes, None), at
    return codes_of(rung, top, row_codes, payload[at : at + channels]), at + channels


def packed(rung: Rung, codes_N: Tensor) -> Tensor:
    """[n] codes -> the bytes of the rung's planes."""
    count, planes = codes_N.numel(), _planes(rung)
    packed_S = torch.empty(packed_bytes(planes, count), dtype=torch.uint8, device=codes_N.device)
    at = shift = 0
    for plane in planes:
        stride = plane.stride(count)
        passes.pack_pass[(-(-stride // TILE),)](
            codes_N, packed_S[at:], count, stride, shift, BASE=plane.base, PER_BYTE=plane.per_byte, TILE=TILE
        )
        at, shift = at + stride, shift + plane.base.bit_length() - 1
    return packed_S


def unpacked(rung: Rung, packed_S: Tensor, count: int) -> Tensor:
    """Undo `packed`; raises PayloadError for bytes that no encoder writes."""
    codes_N = torch.empty(count, dtype=torch.uint8, device=packed_S.device)
    at = shift = 0
    for plane in _planes(rung):
        stride = plane.stride(count)
        programs = -(-stride // TILE)
        wrong_P = torch.empty(programs, dtype=torch.int32, device=packed_S.device)
        passes.unpack_pass[(programs,)](
            packed_S[at:], codes_N, wrong_P, count, stride, shift, BASE=plane.base, PER_BYTE=plane.per_byte, TILE=TILE
        )
        if bool(wrong_P.any()):
            raise PayloadError("frame payload: expected packed codes and zeros past their end; ask for a key frame")
        at, shift = at + stride, shift + plane.base.bit_length() - 1
    if isinstance(rung, PerTokenRung) and int(codes_N.max()) > 2 * rung.levels:
        raise PayloadError(f"frame payload: expected codes up to {2 * rung.levels}; ask for a key frame")
    return codes_N


def _planes(rung: Rung) -> tuple[Plane, ...]:
    return (rung.plane,) if isinstance(rung, PerTokenRung) else rung.planes if isinstance(rung, RankOneRung) else ()
