"""What a rung is: a rate, a payload size known beforehand, and a pair of functions."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from thinwire.compression.rungs.memory import RungMemory


class Rung(ABC):
    """One way of coding a [rows, channels] tensor.

    name: as in a manifest. wire_id: the wire format's number of its family. millibits: nominal bits per value times
    1,000, without header (scalar rungs: and without scales). distortion: share of a residual's energy that is lost, on
    96 unit normal channels: what an allocator trades for bits. carries_key_frames: fine enough to make a base by
    itself. codes_whole_tensor: the payload is the tensor itself, not its residual.
    """

    name: str
    wire_id: int
    millibits: int
    distortion: float
    carries_key_frames: bool
    codes_whole_tensor: ClassVar[bool] = False

    @abstractmethod
    def payload_bytes(self, rows: int, channels: int, dtype: torch.dtype) -> int:
        """Return the size of a payload: a pure function of rung, shape and dtype."""

    @abstractmethod
    def encode(self, tensor_RC: Tensor, dtype: torch.dtype, memory: RungMemory) -> Tensor:
        """Code [rows, channels] into [payload_bytes] uint8.

        The tensor is a residual in float32, or the caller's own in `dtype` if `codes_whole_tensor`. Raises
        NonFiniteError where the rung cannot carry the values.
        """

    @abstractmethod
    def decode(
        self, payload: Tensor, rows: int, channels: int, dtype: torch.dtype, memory: RungMemory
    ) -> tuple[Tensor, RungMemory]:
        """Undo `encode` as far as it goes: [payload_bytes] uint8 -> [rows, channels] float32, and what to remember.

        Raises PayloadError for bytes that `encode` never writes.
        """
