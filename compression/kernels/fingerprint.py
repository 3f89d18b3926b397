"""A kernel's fingerprint: what it really computes, not what it is called.

A short series of tensors goes through every kind of rung, key frames in each of their forms, and every predictor order;
frames and states are hashed. Kernels that differ in one bit anywhere on the way differ in the fingerprint.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from thinwire.compression.checksums import crc32
from thinwire.compression.frames import HEADER_BYTES, FrameLayout
from thinwire.compression.ladder import FP8, LADDER, RAW, SPARSE_1_OF_8, SPARSE_2_OF_4
from thinwire.compression.rungs.base import Rung
from thinwire.compression.rungs.transform import TransformRung
from thinwire.compression.state import StreamState
from thinwire.compression.streams import BaseFormat, Exchange, Role, StreamId
from thinwire.compression.transform.basis import Basis

if TYPE_CHECKING:
    from thinwire.compression.kernels.base import Kernel

_ROWS, _CHANNELS = 67, 42
_TRANSFORMS = (RAW, *(TransformRung(rate) for rate in (1_000, 500, 3_000)))
_TRANSFORMS_ALL_THROUGH = tuple(TransformRung(rate) for rate in (5_000, 250, 6_000, 1_250))
# Low rank is left out: its encoder asks LAPACK, whose bits are the machine's own; what it sends decodes alike anywhere.
_BEYOND_THE_LADDER = (FP8, SPARSE_2_OF_4, FP8, SPARSE_1_OF_8)


@dataclass(frozen=True, slots=True)
class _Case:
    """One stream and the rungs that it goes through, the first one as a key frame."""

    dtype: torch.dtype
    order: int
    base_format: BaseFormat
    rungs: tuple[Rung, ...] = (RAW, *LADDER[1:], *LADDER)
    block_size: int = 0
    """Of its basis; 0 for none."""


_CASES = (
    _Case(torch.float32, 2, BaseFormat.FULL),
    _Case(torch.bfloat16, 1, BaseFormat.INT8),
    _Case(torch.float16, 2, BaseFormat.INT8),
    _Case(torch.float32, 0, BaseFormat.FULL),
    _Case(torch.float32, 2, BaseFormat.FULL, _TRANSFORMS, block_size=7),
    _Case(torch.bfloat16, 2, BaseFormat.INT8, _TRANSFORMS_ALL_THROUGH, block_size=42),
    _Case(torch.float32, 1, BaseFormat.FULL, _BEYOND_THE_LADDER),
)


def _basis(block_size: int) -> Basis:
    """Any matrices serve; these have few bits, so that they are the same everywhere."""
    index = torch.arange(_CHANNELS * block_size, dtype=torch.int64)
    forward = ((index * 48_271 % 129 - 64).float() / 64).view(-1, block_size, block_size)
    return Basis(forward, forward.mT.contiguous(), torch.zeros(_CHANNELS, dtype=torch.int16))


def _wave(step: int, dtype: torch.dtype) -> Tensor:
    """A tensor that drifts and jitters, from integer arithmetic alone: the same bits everywhere."""
    index = torch.arange(_ROWS * _CHANNELS, dtype=torch.int64)
    noise = (index * 2_654_435_761 + step * 40_503) % 65_521 - 32_760
    trend = (index * 48_271) % 65_521 - 32_760
    whole = trend * (64 - step) + noise * 4
    return (whole.to(torch.float32) / 2**20).view(_ROWS, _CHANNELS).to(dtype)


def fingerprint_of(kernel: "Kernel", device: torch.device = torch.device("cpu")) -> str:  # noqa: B008
    """Return `codec-` and eight hexadecimal digits: of what it computes on a device."""
    crc = 0
    for case in _CASES:
        basis = _basis(case.block_size).on(device) if case.block_size else None
        state = StreamState(_ROWS, _CHANNELS, case.order, case.base_format, device, basis)
        coder = kernel.bind(state, case.dtype)
        stream = StreamId(Exchange.RING, layer=0, role=Role.KEY, branch=0, source=0)
        layout = FrameLayout(stream, _ROWS, _CHANNELS, case.dtype, case.order, case.base_format)
        for step, rung in enumerate(case.rungs):
            payload_bytes = rung.payload_bytes(_ROWS, _CHANNELS, case.dtype)
            frame = torch.empty(HEADER_BYTES + payload_bytes, dtype=torch.uint8, device=device)
            header = layout.header(rung, epoch=1, step=step, key_frame=step == 0, payload_bytes=payload_bytes)
            coder.encode(_wave(step, case.dtype).to(device), rung, header, frame, key_frame=step == 0)
            crc = crc32(frame, crc) ^ state.checksum()
    return f"codec-{crc:08x}"
