"""What a kernel is: something that codes one stream's tensors, bit for bit as the eager reference does."""

from typing import Protocol

import torch
from torch import Tensor

from thinwire.compression.rungs.base import Rung
from thinwire.compression.state import StreamState


class Coder(Protocol):
    """One end of one stream on one kernel; it alone changes the stream's state."""

    def encode(self, x_RC: Tensor, rung: Rung, header: bytes, frame: Tensor, *, key_frame: bool) -> float:
        """Write the frame of `x_RC` ([rows, channels] of the stream's dtype) and return |x - decoded| / |x|.

        Raises NonFiniteError before anything has changed.
        """

    def decode(self, frame: Tensor, rung: Rung, header: bytes, x_RC: Tensor, *, key_frame: bool) -> None:
        """Check `frame` and write what it says into `x_RC`; raises FrameError before anything has changed."""

    def predict(self, x_RC: Tensor) -> None:
        """Write the prediction of the next tensor into `x_RC`, changing nothing."""


class Kernel(Protocol):
    """A way of computing. Kernels with equal fingerprints write equal frames and hold equal bases."""

    @property
    def name(self) -> str:
        """`eager`, `native` or `triton`."""

    @property
    def fingerprint(self) -> str:
        """Hash of what this kernel computes on a fixed series of tensors; ranks compare it before they start."""

    def bind(self, state: StreamState, dtype: torch.dtype) -> Coder:
        """Return a coder over `state` for tensors of `dtype`."""
