"""The reference kernel: plain torch operations, on any device. What it computes is the definition."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from thinwire.compression.errors import NonFiniteError
from thinwire.compression.frames import HEADER_BYTES, open_frame, seal
from thinwire.compression.kernels.fingerprint import fingerprint_of
from thinwire.compression.predictor import advance, predict
from thinwire.compression.rungs.base import Rung
from thinwire.compression.rungs.memory import RungMemory
from thinwire.compression.rungs.transform import TransformRung
from thinwire.compression.scales import SMALLEST_TOP
from thinwire.compression.state import StreamState
from thinwire.compression.streams import BaseFormat

LARGEST_VALUE = 2.0**60
LARGEST_ENERGY = 2.0**122
INT8_LEVELS = 127


def to_int8(x_RC: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise rows for keeping: [rows, channels] float32 -> int8 of the same shape and [rows] float32 scales."""
    largest_R = x_RC.abs().amax(dim=1) if x_RC.numel() else x_RC.new_zeros(x_RC.shape[0])
    kept_R = largest_R > SMALLEST_TOP
    nothing_R = torch.zeros_like(largest_R)
    inverse_R = torch.where(kept_R, torch.full_like(largest_R, INT8_LEVELS) / largest_R, nothing_R)
    scale_R = torch.where(kept_R, largest_R / INT8_LEVELS, nothing_R)
    return (x_RC * inverse_R[:, None]).round().to(torch.int8), scale_R


def holdable(x_RC: Tensor) -> Tensor:
    """Return what a base holds of a raw tensor: zero in place of NaN, Inf and magnitudes beyond 2**60."""
    return torch.where(x_RC.abs() <= LARGEST_VALUE, x_RC, torch.zeros_like(x_RC))


@dataclass(slots=True)
class EagerCoder:
    """One end of one stream, in plain torch."""

    state: StreamState
    dtype: torch.dtype

    def _base(self) -> Tensor:
        base_RC = self.state.base[:, : self.state.channels].to(torch.float32)
        return base_RC * self.state.base_scale[:, None] if self.state.base_format is BaseFormat.INT8 else base_RC

    def _deltas(self) -> tuple[Tensor, ...]:
        state = self.state
        deltas = []
        for age in state.ages():
            delta_RC = state.deltas[age][:, : state.channels].to(torch.float32)
            if state.base_format is BaseFormat.INT8:
                delta_RC = delta_RC * state.delta_scales[age][:, None]
            deltas.append(delta_RC)
        return tuple(deltas)

    def _keep_base(self, base_RC: Tensor) -> None:
        if self.state.base_format is BaseFormat.INT8:
            steps_RC, scale_R = to_int8(base_RC)
            self.state.base_scale.copy_(scale_R)
            base_RC = steps_RC
        self.state.base[:, : self.state.channels] = base_RC

    def _keep_delta(self, delta_RC: Tensor) -> None:
        state = self.state
        state.newest = (state.newest + 1) % state.order
        if state.base_format is BaseFormat.INT8:
            steps_RC, scale_R = to_int8(delta_RC)
            state.delta_scales[state.newest].copy_(scale_R)
            delta_RC = steps_RC
        state.deltas[state.newest][:, : state.channels] = delta_RC

    def _remember(self, base_RC: Tensor, *, key_frame: bool) -> None:
        """Make a decoded tensor the new base."""
        if key_frame:
            self._keep_base(base_RC)
            self.state.forget_history()
            return
        if self.state.order:
            delta_RC, deltas = base_RC - self._base(), self._deltas()
            advance(self.state.sums[:, : self.state.channels], delta_RC, deltas)
            self._keep_delta(delta_RC)
        self._keep_base(base_RC)

    def _memory(self, *, key_frame: bool) -> RungMemory:
        """What the rung may build on; a key frame builds on nothing."""
        state = self.state
        return RungMemory.fresh(state.basis, state.rows, state.device) if key_frame else state.memory

    def _prediction(self) -> Tensor:
        return predict(self._base(), self._deltas(), self.state.sums[:, : self.state.channels])

    def encode(self, x_RC: Tensor, rung: Rung, header: bytes, frame: Tensor, *, key_frame: bool) -> float:
        """See Coder."""
        state = self.state
        wide_RC = x_RC.to(torch.float32)
        if rung.codes_whole_tensor:
            state.memory = self._memory(key_frame=key_frame)
            seal(header, rung.encode(x_RC, self.dtype, state.memory), frame)
            self._remember(holdable(wide_RC), key_frame=key_frame)
            return 0.0
        energy = wide_RC.double().square().sum()
        if not bool(energy <= LARGEST_ENERGY):
            raise NonFiniteError(f"{rung.name}: expected finite values up to 2**60; send the tensor raw")
        prediction_RC = torch.zeros_like(wide_RC) if key_frame else self._prediction()
        residual_RC = wide_RC - prediction_RC
        before = self._memory(key_frame=key_frame)
        payload = rung.encode(residual_RC, self.dtype, before)
        coded_RC, state.memory = rung.decode(payload, state.rows, state.channels, self.dtype, before)
        seal(header, payload, frame)
        self._remember(prediction_RC + coded_RC, key_frame=key_frame)
        lost_RC = residual_RC - coded_RC
        if isinstance(rung, TransformRung) and before.basis is not None:
            relative_cost = before.basis.relative_cost(before.basis.components(lost_RC), wide_RC)
            if relative_cost is not None:
                return relative_cost
        return float((lost_RC.double().square().sum() / energy).sqrt()) if bool(energy > 0) else 0.0

    def decode(self, frame: Tensor, rung: Rung, header: bytes, x_RC: Tensor, *, key_frame: bool) -> None:
        """See Coder."""
        state = self.state
        expected_bytes = HEADER_BYTES + rung.payload_bytes(state.rows, state.channels, self.dtype)
        payload = open_frame(frame, header, expected_bytes)
        before = self._memory(key_frame=key_frame)
        decoded_RC, state.memory = rung.decode(payload, state.rows, state.channels, self.dtype, before)
        if rung.codes_whole_tensor:
            self._remember(holdable(decoded_RC), key_frame=key_frame)
            x_RC.view(-1).view(torch.uint8).copy_(payload)  # bit for bit, NaN payloads included
            return
        # A key frame predicts 0, and 0 + -0 is 0, as at the sender.
        decoded_RC = (torch.zeros_like(decoded_RC) if key_frame else self._prediction()) + decoded_RC
        self._remember(decoded_RC, key_frame=key_frame)
        x_RC.copy_(decoded_RC)

    def predict(self, x_RC: Tensor) -> None:
        """See Coder."""
        x_RC.copy_(self._prediction())


@dataclass(slots=True)
class EagerKernel:
    """The reference."""

    name: str = "eager"
    _fingerprint: list[str] = field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        """See Kernel; computed at the first call."""
        if not self._fingerprint:
            self._fingerprint.append(fingerprint_of(self))
        return self._fingerprint[0]

    def bind(self, state: StreamState, dtype: torch.dtype) -> EagerCoder:
        """See Kernel."""
        return EagerCoder(state, dtype)
