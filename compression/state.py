"""What one end of a stream remembers: base, deltas and the predictor's sums, the same bits on both ends."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from thinwire.compression.checksums import crc32
from thinwire.compression.predictor import HISTORY_SUMS
from thinwire.compression.rungs.memory import RungMemory
from thinwire.compression.streams import BaseFormat
from thinwire.compression.sums import LANES
from thinwire.compression.transform.basis import Basis


@dataclass(slots=True)
class StreamState:
    """Planes of [rows, stride], stride = channels rounded up to 16; the padding is always zero.

    base: float32, or int8 with base_scale ([rows] float32). deltas: `order` planes in bfloat16, or int8 with
    delta_scales. newest: index of the newest delta. sums: [6, stride] float32 (see predictor). memory: of the rungs.
    """

    rows: int
    channels: int
    order: int
    base_format: BaseFormat
    device: torch.device
    basis: Basis | None = None
    newest: int = 0
    base: Tensor = field(init=False)
    base_scale: Tensor = field(init=False)
    deltas: tuple[Tensor, ...] = field(init=False)
    delta_scales: tuple[Tensor, ...] = field(init=False)
    sums: Tensor = field(init=False)
    memory: RungMemory = field(init=False)

    def __post_init__(self) -> None:
        small = self.base_format is BaseFormat.INT8
        plane = (self.rows, -(-self.channels // LANES) * LANES)
        scales = (self.rows if small else 0,)

        def zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=self.device)

        self.base = zeros(plane, torch.int8 if small else torch.float32)
        self.base_scale = zeros(scales, torch.float32)
        delta_dtype = torch.int8 if small else torch.bfloat16
        self.deltas = tuple(zeros(plane, delta_dtype) for _ in range(self.order))
        self.delta_scales = tuple(zeros(scales, torch.float32) for _ in range(self.order))
        self.sums = zeros((HISTORY_SUMS, plane[1]), torch.float32)
        self.memory = RungMemory.fresh(self.basis, self.rows, self.device)

    def _tensors(self) -> tuple[Tensor, ...]:
        return (self.base, self.base_scale, *self.deltas, *self.delta_scales, self.sums)

    @property
    def base_bytes(self) -> int:
        """Bytes held, deltas and sums included."""
        return sum(tensor.nbytes for tensor in self._tensors())

    def ages(self) -> range | tuple[int, ...]:
        """Indices into `deltas`, newest first."""
        return tuple((self.newest - age) % self.order for age in range(self.order))

    def reset(self) -> None:
        """Forget everything."""
        self.newest = 0
        self.memory = RungMemory.fresh(self.basis, self.rows, self.device)
        for tensor in self._tensors():
            tensor.zero_()

    def forget_history(self) -> None:
        """Keep the base alone: what a key frame does."""
        self.newest = 0
        for tensor in (*self.deltas, *self.delta_scales, self.sums):
            tensor.zero_()

    def checksum(self) -> int:
        """CRC-32 over all that is remembered, deltas in order of age; equal on both ends after every frame."""
        ages = self.ages()
        ordered = (
            self.base,
            self.base_scale,
            *(self.deltas[age] for age in ages),
            *(self.delta_scales[age] for age in ages),
            self.sums,
            self.memory.component_codes,
            self.memory.token_codes,
            *(() if self.memory.right_factor is None else (self.memory.right_factor,)),
        )
        crc = 0
        for tensor in ordered:
            crc = crc32(tensor, crc)
        return crc
