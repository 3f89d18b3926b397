"""The Triton kernel: the ladder and the transform rungs in few passes over a GPU's memory, in the reference's bits.

Small vectors (scales, coefficients, amplitudes, the order of components) are the reference's own torch operations on
the same device; what touches every value is a pass of triton_passes. Streams whose bases are kept in int8, and rungs
that no pass knows, go through the reference. Import needs triton: choose_kernel does so where CUDA is.
"""

from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor

from thinwire.compression.errors import NonFiniteError, PayloadError
from thinwire.compression.frames import HEADER_BYTES, open_frame, seal
from thinwire.compression.kernels import triton_passes as passes
from thinwire.compression.kernels.base import Coder
from thinwire.compression.kernels.eager import LARGEST_ENERGY, EagerCoder
from thinwire.compression.kernels.fingerprint import fingerprint_of
from thinwire.compression.packing import Plane, packed_bytes
from thinwire.compression.predictor import (
    DECAY,
    NEXT_BEFORE,
    NEXT_NOW,
    SAME_BEFORE,
    SAME_EARLIER,
    SAME_NOW,
    SECOND_NOW,
    coefficients,
)
from thinwire.compression.rungs.base import Rung
from thinwire.compression.rungs.memory import RungMemory
from thinwire.compression.rungs.per_token import PerTokenRung, scales_of
from thinwire.compression.rungs.rank_one import Moment, RankOneRung
from thinwire.compression.rungs.side_information import TOP_BYTES, read_top, write_top
from thinwire.compression.rungs.transform import TransformRung, required_basis
from thinwire.compression.scales import inverse_step_table, step_table
from thinwire.compression.state import StreamState
from thinwire.compression.streams import BaseFormat
from thinwire.compression.sums import BLOCK_ROWS, LANES
from thinwire.compression.transform import trellis

TILE = 128
_EXACT = {"enable_fp_fusion": False}
_ROWS_AT_ONCE = 16


@dataclass(slots=True)
class _Codes:
    """What turns codes into values: kind of pass, scales per row and per channel, thresholds and levels."""

    kind: int
    count: int
    row_R: Tensor
    row_inverse_R: Tensor
    step_C: Tensor
    step_inverse_C: Tensor
    thresholds: Tensor
    levels: Tensor


def _planes(rung: Rung) -> tuple[Plane, ...]:
    return (rung.plane,) if isinstance(rung, PerTokenRung) else rung.planes if isinstance(rung, RankOneRung) else ()


@cache
def _trellis_tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """Limits [bits, subset, 64], NaN where there is none, and levels [bits, 256]."""
    limits = torch.full((trellis.MAX_BITS + 1, trellis.SUBSETS, 1 << trellis.MAX_BITS - 1), torch.nan)
    levels = torch.zeros(trellis.MAX_BITS + 1, 2 << trellis.MAX_BITS)
    for bits in range(1, trellis.MAX_BITS + 1):
        levels[bits, : 2 << bits] = torch.tensor(trellis.levels(bits))
        for subset in range(trellis.SUBSETS):
            own = torch.tensor(trellis.thresholds(bits, subset))
            limits[bits, subset, : own.numel()] = own
    return limits.to(device), levels.to(device)


@dataclass(slots=True)
class TritonCoder:
    """One end of one stream whose bases are kept in full."""

    state: StreamState
    dtype: torch.dtype
    reference: EagerCoder = field(init=False)

    def __post_init__(self) -> None:
        self.reference = EagerCoder(self.state, self.dtype)

    def _new(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.state.device)

    def _blocks(self) -> tuple[int, int]:
        state = self.state
        return -(-state.rows // BLOCK_ROWS), -(-state.channels // TILE)

    def _history(self) -> tuple[Tensor, ...]:
        """Base, coefficients and deltas as the passes take them; what an order lacks is stood in for by the base."""
        state = self.state
        known = coefficients(state.sums[:, : state.channels], state.order)
        first, second = (*(part.contiguous() for part in known), state.base, state.base)[:2]
        bits = (*(state.deltas[age].view(torch.int16) for age in state.ages()), state.base, state.base)
        return (state.base, first, second, *bits[:2])

    def encode(self, x_RC: Tensor, rung: Rung, header: bytes, frame: Tensor, *, key_frame: bool) -> float:
        """See Coder."""
        state = self.state
        known = isinstance(rung, PerTokenRung | RankOneRung | TransformRung) or rung.codes_whole_tensor
        if not known or not x_RC.numel():
            return self.reference.encode(x_RC, rung, header, frame, key_frame=key_frame)
        before = RungMemory.fresh(state.basis, state.rows, state.device) if key_frame else state.memory
        if rung.codes_whole_tensor:
            seal(header, rung.encode(x_RC, self.dtype, before), frame)
            self._absorb(self._given(passes.RAW.value), x_RC.to(torch.float32), None, key_frame=key_frame)
            state.memory = before
            return 0.0
        squared = not isinstance(rung, RankOneRung) or rung.moment is Moment.ROOT_MEAN_SQUARE
        residual_RC, moments_BC, energy = self._residual(x_RC, squared=squared, key_frame=key_frame)
        if not energy <= LARGEST_ENERGY:
            raise NonFiniteError(f"{rung.name}: expected finite values up to 2**60; send the tensor raw")
        if isinstance(rung, TransformRung):
            basis = required_basis(before, rung)
            whole_RC = self._times(residual_RC, basis.forward)
            payload = rung.encode_components(whole_RC, self.dtype, before, self._quantised)
            components_RC, state.memory = rung.decode_components(payload, state.rows, state.channels, before)
            values_RC = self._times(components_RC, basis.inverse)
            seal(header, payload, frame)
            self._absorb(self._given(passes.GIVEN.value), values_RC, None, key_frame=key_frame)
            relative_cost = basis.relative_cost(whole_RC - components_RC, x_RC.to(torch.float32))
            if relative_cost is not None:
                return relative_cost
            lost = float((residual_RC - values_RC).double().square().sum())
        else:
            scales, codes = self._scales(rung, residual_RC, moments_BC, squared=squared)
            codes_N = self._new(x_RC.numel(), dtype=torch.uint8)
            lost = self._absorb(codes, residual_RC, codes_N, key_frame=key_frame)[1]
            seal(header, torch.cat([scales, self._packed(_planes(rung), codes_N)]), frame)
            state.memory = before
        return (lost / energy) ** 0.5 if energy > 0 else 0.0

    def decode(self, frame: Tensor, rung: Rung, header: bytes, x_RC: Tensor, *, key_frame: bool) -> None:
        """See Coder."""
        state = self.state
        known = isinstance(rung, PerTokenRung | RankOneRung | TransformRung)
        if not known or not x_RC.numel():
            self.reference.decode(frame, rung, header, x_RC, key_frame=key_frame)
            return
        payload_bytes = rung.payload_bytes(state.rows, state.channels, self.dtype)
        payload = open_frame(frame, header, HEADER_BYTES + payload_bytes)
        before = RungMemory.fresh(state.basis, state.rows, state.device) if key_frame else state.memory
        if isinstance(rung, TransformRung):
            components_RC, after = rung.decode_components(payload, state.rows, state.channels, before)
            values_RC = self._times(components_RC, required_basis(before, rung).inverse)
            decoded_RC, _ = self._absorb(self._given(passes.GIVEN.value), values_RC, None, key_frame=key_frame)
        else:
            after = before
            codes, at = self._read_scales(rung, payload)
            codes_N = self._unpacked(_planes(rung), payload[at:], x_RC.numel())
            if isinstance(rung, PerTokenRung) and int(codes_N.max()) > 2 * rung.levels:
                raise PayloadError(f"frame payload: expected codes up to {2 * rung.levels}; ask for a key frame")
            decoded_RC, _ = self._absorb(codes, None, codes_N, key_frame=key_frame)
        state.memory = after
        x_RC.copy_(decoded_RC)

    def predict(self, x_RC: Tensor) -> None:
        """See Coder."""
        state = self.state
        if not x_RC.numel():
            return
        wide_RC = self._new(*x_RC.shape)
        passes.predict_pass[(state.rows, self._blocks()[1])](
            *self._history(), wide_RC, state.channels, state.base.shape[1], ORDER=state.order, TILE=TILE, **_EXACT
        )
        x_RC.copy_(wide_RC)

    def _residual(self, x_RC: Tensor, *, squared: bool, key_frame: bool) -> tuple[Tensor, Tensor, float]:
        """Return the residual, its moments by block of rows, and the tensor's energy."""
        state, grid = self.state, self._blocks()
        residual_RC, moments_BC = self._new(state.rows, state.channels), self._new(grid[0], state.channels)
        energy_BT = self._new(*grid, dtype=torch.float64)
        bfloat16 = x_RC.dtype is torch.bfloat16
        passes.residual_pass[grid](
            x_RC.view(torch.int16) if bfloat16 else x_RC,
            *self._history(),
            residual_RC,
            moments_BC,
            energy_BT,
            state.rows,
            state.channels,
            state.base.shape[1],
            ORDER=state.order,
            KEY_FRAME=key_frame,
            MOMENT=(passes.SQUARE if squared else passes.MAGNITUDE).value,
            BFLOAT16=bfloat16,
            TILE=TILE,
            **_EXACT,
        )
        return residual_RC, moments_BC, float(energy_BT.sum())

    def _scales(self, rung: Rung, residual_RC: Tensor, moments_BC: Tensor, *, squared: bool) -> tuple[Tensor, _Codes]:
        """Return the bytes of top and scale codes, and what they mean."""
        state = self.state
        sums_R, largest_R = self._new(state.rows), self._new(state.rows)
        passes.row_pass[(state.rows,)](
            residual_RC,
            sums_R,
            largest_R,
            state.channels,
            -(-state.channels // LANES),
            MOMENT=(passes.SQUARE if squared else passes.MAGNITUDE).value,
            **_EXACT,
        )
        if isinstance(rung, PerTokenRung):
            found = scales_of(largest_R, rung.levels, rung.name)
            scales = torch.cat([write_top(found.top), found.codes])
            return scales, self._meaning(rung, found.top, found.codes, None, found.inverse_R)
        assert isinstance(rung, RankOneRung)
        top, row_codes, column_codes = rung.scales(sums_R, self._folded(moments_BC))
        scales = torch.cat([write_top(top), row_codes, column_codes])
        return scales, self._meaning(rung, top, row_codes, column_codes, sums_R)

    def _read_scales(self, rung: Rung, payload: Tensor) -> tuple[_Codes, int]:
        """Return what the scale codes mean and where the planes begin."""
        rows, channels = self.state.rows, self.state.channels
        top, at = read_top(payload), TOP_BYTES + rows
        row_codes = payload[TOP_BYTES:at]
        if isinstance(rung, PerTokenRung):
            return self._meaning(rung, top, row_codes, None, self._new(1)), at
        return self._meaning(rung, top, row_codes, payload[at : at + channels], self._new(1)), at + channels

    def _meaning(
        self, rung: Rung, top: Tensor, row_codes: Tensor, column_codes: Tensor | None, inverse_R: Tensor
    ) -> _Codes:
        device = self.state.device
        row_R = top * step_table(device)[row_codes.long()]
        nothing = self._new(1)
        if column_codes is None:
            assert isinstance(rung, PerTokenRung)
            kind = passes.PER_TOKEN.value
            return _Codes(kind, rung.levels, row_R, inverse_R, nothing, nothing, nothing, nothing)
        assert isinstance(rung, RankOneRung)
        return _Codes(
            passes.RANK_ONE.value,
            len(rung.levels),
            row_R,
            inverse_R,
            step_table(device)[column_codes.long()],
            inverse_step_table(device)[column_codes.long()],
            torch.tensor(rung.thresholds, dtype=torch.float32, device=device),
            torch.tensor(rung.levels, dtype=torch.float32, device=device),
        )

    def _given(self, kind: int) -> _Codes:
        nothing = self._new(1)
        return _Codes(kind, 0, nothing, nothing, nothing, nothing, nothing, nothing)

    def _absorb(
        self, codes: _Codes, source_RC: Tensor | None, codes_N: Tensor | None, *, key_frame: bool
    ) -> tuple[Tensor, float]:
        """Make the new base, and return it with the energy that coding lost."""
        state, grid = self.state, self._blocks()
        decoded_RC, lost_BT = self._new(state.rows, state.channels), self._new(*grid, dtype=torch.float64)
        sums_3BC = self._new(3, grid[0], state.channels)
        history = self._history()
        oldest = (state.newest + 1) % state.order if state.order else 0
        nothing = self._new(1, dtype=torch.uint8)
        passes.absorb_pass[grid](
            decoded_RC if source_RC is None else source_RC,
            nothing if codes_N is None else codes_N,
            codes.thresholds,
            codes.levels,
            codes.row_R,
            codes.row_inverse_R,
            codes.step_C,
            codes.step_inverse_C,
            *history,
            state.deltas[oldest].view(torch.int16) if state.order else nothing,
            decoded_RC,
            sums_3BC,
            lost_BT,
            state.rows,
            state.channels,
            state.base.shape[1],
            KIND=codes.kind,
            ENCODE=source_RC is not None,
            COUNT=codes.count,
            KEY_FRAME=key_frame,
            ORDER=state.order,
            TILE=TILE,
            **_EXACT,
        )
        if key_frame:
            state.forget_history()
        elif state.order:
            self._advance(sums_3BC)
            state.newest = oldest
        return decoded_RC, float(lost_BT.sum())

    def _advance(self, sums_3BC: Tensor) -> None:
        """Move the predictor's sums on, as predictor.advance does."""
        state = self.state
        sums = state.sums[:, : state.channels]
        sums[SAME_EARLIER] = sums[SAME_BEFORE]
        sums[SAME_BEFORE] = sums[SAME_NOW]
        sums[NEXT_BEFORE] = sums[NEXT_NOW]
        for index, part_BC in zip((SAME_NOW, NEXT_NOW, SECOND_NOW)[: state.order + 1], sums_3BC, strict=False):
            sums[index] = sums[index] * DECAY[state.order] + self._folded(part_BC)

    def _folded(self, parts_BC: Tensor) -> Tensor:
        blocks, channels = parts_BC.shape
        out_C = self._new(channels)
        passes.fold_pass[(-(-channels // TILE),)](parts_BC, out_C, blocks, channels, TILE=TILE, **_EXACT)
        return out_C

    def _times(self, x_RC: Tensor, matrices_HDD: Tensor) -> Tensor:
        heads, size, _ = matrices_HDD.shape
        rows, channels = x_RC.shape
        out_RC = self._new(rows, channels)
        padded = 1 << max(size - 1, 0).bit_length()
        passes.times_pass[(-(-rows // _ROWS_AT_ONCE), heads)](
            x_RC, matrices_HDD, out_RC, rows, channels, SIZE=size, PADDED=padded, ROWS=_ROWS_AT_ONCE, **_EXACT
        )
        return out_RC

    def _quantised(self, u_RC: Tensor, weight_R: Tensor, bits_C: Tensor) -> Tensor:
        """Do as trellis.quantised."""
        rows, coded = u_RC.shape
        codes_RC = self._new(rows, coded, dtype=torch.int16)
        scratch = self._new(2, rows, coded, dtype=torch.int32)
        grid = (-(-rows // trellis.BLOCK_ROWS), -(-coded // TILE))
        tables = _trellis_tables(u_RC.device)
        passes.trellis_pass[grid](
            u_RC.contiguous(),
            weight_R,
            bits_C,
            *tables,
            *scratch,
            codes_RC,
            rows,
            coded,
            BLOCK=trellis.BLOCK_ROWS,
            TILE=TILE,
            **_EXACT,
        )
        return codes_RC

    def _packed(self, planes: tuple[Plane, ...], codes_N: Tensor) -> Tensor:
        count = codes_N.numel()
        packed = self._new(packed_bytes(planes, count), dtype=torch.uint8)
        at = shift = 0
        for plane in planes:
            stride = plane.stride(count)
            passes.pack_pass[(-(-stride // TILE),)](
                codes_N, packed[at:], count, stride, shift, BASE=plane.base, PER_BYTE=plane.per_byte, TILE=TILE
            )
            at, shift = at + stride, shift + plane.base.bit_length() - 1
        return packed

    def _unpacked(self, planes: tuple[Plane, ...], packed: Tensor, count: int) -> Tensor:
        codes_N = self._new(count, dtype=torch.uint8)
        at = shift = 0
        for plane in planes:
            stride = plane.stride(count)
            programs = -(-stride // TILE)
            wrong_P = self._new(programs, dtype=torch.int32)
            passes.unpack_pass[(programs,)](
                packed[at:], codes_N, wrong_P, count, stride, shift, BASE=plane.base, PER_BYTE=plane.per_byte, TILE=TILE
            )
            if bool(wrong_P.any()):
                raise PayloadError("frame payload: expected packed codes and zeros past their end; ask for a key frame")
            at, shift = at + stride, shift + plane.base.bit_length() - 1
        return codes_N


@dataclass(slots=True)
class TritonKernel:
    """Passes for tensors on a CUDA device; on the CPU only in Triton's interpreter (TRITON_INTERPRET=1)."""

    device: torch.device = field(default_factory=lambda: torch.device("cuda"))
    name: str = "triton"
    _fingerprint: list[str] = field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        """See Kernel; computed at the first call, on the device."""
        if not self._fingerprint:
            self._fingerprint.append(fingerprint_of(self, self.device))
        return self._fingerprint[0]

    def bind(self, state: StreamState, dtype: torch.dtype) -> Coder:
        """See Kernel."""
        if state.base_format is BaseFormat.INT8:
            return EagerCoder(state, dtype)
        return TritonCoder(state, dtype)
