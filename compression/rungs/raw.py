"""The raw rung: the tensor as it is. Key frames, and the yardstick of the others."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from thinwire.compression.dtypes import dtype_bytes
from thinwire.compression.rungs.base import Rung
from thinwire.compression.rungs.memory import RungMemory


@dataclass(frozen=True, slots=True)
class RawRung(Rung):
    """The bytes of the tensor in its own dtype, little-endian; NaN and Inf travel bit for bit.

    millibits is nominal (16-bit elements): float32 tensors take 32 bits a value.
    """

    name: str = "raw"
    wire_id: int = 0
    millibits: int = 16_000
    distortion: float = 0.0
    carries_key_frames: bool = True
    codes_whole_tensor: ClassVar[bool] = True

    def payload_bytes(self, rows: int, channels: int, dtype: torch.dtype) -> int:
        """Return rows x channels x element size."""
        return rows * channels * dtype_bytes(dtype)

    def encode(self, tensor_RC: Tensor, dtype: torch.dtype, memory: RungMemory) -> Tensor:
        """Reinterpret a tensor that is still in `dtype`."""
        return tensor_RC.view(-1).view(torch.uint8)

    def decode(
        self, payload: Tensor, rows: int, channels: int, dtype: torch.dtype, memory: RungMemory
    ) -> tuple[Tensor, RungMemory]:
        """Reinterpret and widen to float32."""
        return payload.clone().view(dtype).view(rows, channels).to(torch.float32), memory
