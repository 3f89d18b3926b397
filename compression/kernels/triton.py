"""The Triton kernel: the ladder and the transform rungs in few passes over a GPU's memory, in the reference's bits.

Small vectors (scales, coefficients, amplitudes, the order of components) are the reference's own torch operations on
the same device; what touches every value is a pass of triton_passes or triton_transform_passes. Streams whose bases
are kept in int8, and rungs that no pass knows, go through the reference. Import needs triton: choose_kernel does so
where CUDA is.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from thinwire.compression.errors import NonFiniteError
from thinwire.compression.frames import HEADER_BYTES, open_frame, seal
from thinwire.compression.kernels import triton_passes as passes
from thinwire.compression.kernels.base import Coder
from thinwire.compression.kernels.eager import LARGEST_ENERGY, EagerCoder
from thinwire.compression.kernels.fingerprint import fingerprint_of
from thinwire.compression.kernels.triton_codes import (
    EXACT,
    TILE,
    Codes,
    codes_of,
    no_codes,
    packed,
    read_codes,
    unpacked,
)
from thinwire.compression.kernels.triton_transform import quantised, times
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
from thinwire.compression.rungs.side_information import write_top
from thinwire.compression.rungs.transform import TransformRung, required_basis
from thinwire.compression.state import StreamState
from thinwire.compression.streams import BaseFormat
from thinwire.compression.sums import BLOCK_ROWS, LANES


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
            self._absorb(no_codes(passes.RAW.value, state.device), x_RC.to(torch.float32), None, key_frame=key_frame)
            state.memory = before
            return 0.0
        squared = not isinstance(rung, RankOneRung) or rung.moment is Moment.ROOT_MEAN_SQUARE
        residual_RC, moments_BC, energy = self._residual(x_RC, squared=squared, key_frame=key_frame)
        if not energy <= LARGEST_ENERGY:
            raise NonFiniteError(f"{rung.name}: expected finite values up to 2**60; send the tensor raw")
        if isinstance(rung, TransformRung):
            basis = required_basis(before, rung)
            whole_RC = times(residual_RC, basis.forward)
            payload = rung.encode_components(whole_RC, self.dtype, before, quantised)
            components_RC, state.memory = rung.decode_components(payload, state.rows, state.channels, before)
            values_RC = times(components_RC, basis.inverse)
            seal(header, payload, frame)
            self._absorb(no_codes(passes.GIVEN.value, state.device), values_RC, None, key_frame=key_frame)
            relative_cost = basis.relative_cost(whole_RC - components_RC, x_RC.to(torch.float32))
            if relative_cost is not None:
                return relative_cost
            lost = float((residual_RC - values_RC).double().square().sum())
        else:
            scales, codes = self._scales(rung, residual_RC, moments_BC, squared=squared)
            codes_N = self._new(x_RC.numel(), dtype=torch.uint8)
            lost = self._absorb(codes, residual_RC, codes_N, key_frame=key_frame)[1]
            seal(header, torch.cat([scales, packed(rung, codes_N)]), frame)
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
            values_RC = times(components_RC, required_basis(before, rung).inverse)
            decoded_RC, _ = self._absorb(
                no_codes(passes.GIVEN.value, state.device), values_RC, None, key_frame=key_frame
            )
        else:
            after = before
            codes, at = read_codes(rung, payload, state.rows, state.channels)
            codes_N = unpacked(rung, payload[at:], x_RC.numel())
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
            *self._history(), wide_RC, state.channels, state.base.shape[1], ORDER=state.order, TILE=TILE, **EXACT
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
            **EXACT,
        )
        return residual_RC, moments_BC, float(energy_BT.sum())

    def _scales(self, rung: Rung, residual_RC: Tensor, moments_BC: Tensor, *, squared: bool) -> tuple[Tensor, Codes]:
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
            **EXACT,
        )
        if isinstance(rung, PerTokenRung):
            found = scales_of(largest_R, rung.levels, rung.name)
            scales = torch.cat([write_top(found.top), found.codes])
            return scales, codes_of(rung, found.top, found.codes, None, found.inverse_R)
        assert isinstance(rung, RankOneRung)
        top, row_codes, column_codes = rung.scales(sums_R, self._folded(moments_BC))
        scales = torch.cat([write_top(top), row_codes, column_codes])
        return scales, codes_of(rung, top, row_codes, column_codes)

    def _absorb(
        self, codes: Codes, source_RC: Tensor | None, codes_N: Tensor | None, *, key_frame: bool
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
            **EXACT,
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
        passes.fold_pass[(-(-channels // TILE),)](parts_BC, out_C, blocks, channels, TILE=TILE, **EXACT)
        return out_C


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
