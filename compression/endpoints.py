"""The two ends of a stream: predict, code the residual, and keep the same base on both sides."""

from dataclasses import dataclass

import torch
from torch import Tensor

from thinwire.compression.dtypes import dtype_wire_id
from thinwire.compression.errors import RungError, TensorError
from thinwire.compression.frames import HEADER_BYTES, FrameLayout
from thinwire.compression.kernels.base import Kernel
from thinwire.compression.ladder import frame_bytes
from thinwire.compression.predictor import MAX_ORDER
from thinwire.compression.rungs.base import Rung
from thinwire.compression.state import StreamState
from thinwire.compression.streams import BaseFormat, StreamId
from thinwire.compression.transform.basis import Basis


@dataclass(frozen=True, slots=True)
class Encoded:
    """frame: [frame_bytes] uint8. relative_error: |x - decoded| / |x| over the whole tensor.

    On transform rungs both are taken in the basis's metric, where an error costs alike in every direction: the plain
    figure there says little of the picture. |x| is then estimated from every eighth row.
    """

    frame: Tensor
    relative_error: float


class _Endpoint:
    """What both ends share: the stream's identity, its state and a kernel's coder over it."""

    def __init__(
        self,
        stream: StreamId,
        rows: int,
        channels: int,
        dtype: torch.dtype,
        *,
        kernel: Kernel,
        order: int = 2,
        base_format: BaseFormat = BaseFormat.FULL,
        basis: Basis | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        dtype_wire_id(dtype)
        for field, size in (("rows", rows), ("channels", channels)):
            if not 0 <= size < 2**31:
                raise TensorError(f"{field}: expected 0 to 2**31 - 1, got {size}")
        if not 0 <= order <= MAX_ORDER:
            raise ValueError(f"predictor order: expected 0 to {MAX_ORDER}, got {order}")
        self._shape = torch.Size((rows, channels))
        self._dtype = dtype
        self._layout = FrameLayout(stream, rows, channels, dtype, order, base_format)
        if basis is not None and basis.channels != channels:
            raise TensorError(f"basis: expected one for {channels} channels, got one for {basis.channels}")
        self._state = StreamState(rows, channels, order, base_format, torch.device(device), basis)
        self._coder = kernel.bind(self._state, dtype)
        self._sizes: dict[str, int] = {}

    @property
    def stream(self) -> StreamId:
        """Whose tensors these are."""
        return self._layout.stream

    @property
    def base_bytes(self) -> int:
        """Bytes of memory that base, deltas and predictor sums take."""
        return self._state.base_bytes

    def checksum(self) -> int:
        """CRC-32 of base, deltas and sums: equal on both ends after every frame, or the next must be a key frame."""
        return self._state.checksum()

    def reset(self) -> None:
        """Forget the history, as at the start of a prompt; the other end must do the same."""
        self._state.reset()

    def _header(self, rung: Rung, epoch: int, step: int, key_frame: bool) -> tuple[bytes, int]:
        if not isinstance(rung, Rung):
            raise RungError(f"rung: expected a rung, such as rung_named('bits2'), got {rung!r}")
        size = self._sizes.get(rung.name)
        if size is None:
            size = self._sizes[rung.name] = frame_bytes(rung, self._shape[0], self._shape[1], self._dtype)
        if key_frame and not rung.carries_key_frames:
            raise RungError(f"key frame: expected raw, int8, fp8, int4 or transform from 3 bits on, got {rung.name}")
        payload_bytes = size - HEADER_BYTES
        header = self._layout.header(rung, epoch=epoch, step=step, key_frame=key_frame, payload_bytes=payload_bytes)
        return header, size

    def _check(self, name: str, tensor: Tensor, shape: torch.Size, dtype: torch.dtype) -> None:
        if tensor.shape != shape or tensor.dtype != dtype:
            raise TensorError(
                f"{name}: expected {tuple(shape)} of {dtype}, got {tuple(tensor.shape)} of {tensor.dtype}"
            )
        if not tensor.is_contiguous():
            raise TensorError(f"{name}: expected a contiguous tensor; call .contiguous() first")
        if tensor.device.type != self._state.device.type:
            raise TensorError(f"{name}: expected it on {self._state.device}, got {tensor.device}")


class StreamEncoder(_Endpoint):
    """The sending end of one stream of [rows, channels] tensors.

    rows = batch x tokens, channels = heads x head size. dtype: float32, bfloat16 or float16. order: of the predictor,
    0 to 2. base_format: see BaseFormat. kernel: see choose_kernel. basis: what transform rungs need (see Calibration).
    Raises TensorError, ValueError.
    """

    def encode(
        self, x: Tensor, *, rung: Rung, epoch: int, step: int, key_frame: bool = False, out: Tensor | None = None
    ) -> Encoded:
        """Code one tensor ([rows, channels], contiguous) and move on.

        A key frame codes the tensor itself instead of a residual, so `rung` must be fine enough for one: raw, int8,
        fp8, int4 or a transform from 3 bits on. out: [frame_bytes] uint8 to write into.
        Raises TensorError, RungError, NonFiniteError (a coded rung was given NaN, Inf or values beyond 2**60), all
        before anything has changed.
        """
        header, size = self._header(rung, epoch, step, key_frame)
        self._check("tensor", x, self._shape, self._dtype)
        if out is None:
            out = torch.empty(size, dtype=torch.uint8, device=self._state.device)
        else:
            self._check("out", out, torch.Size((size,)), torch.uint8)
        return Encoded(out, self._coder.encode(x, rung, header, out, key_frame=key_frame))


class StreamDecoder(_Endpoint):
    """The receiving end; takes the same arguments as the StreamEncoder it listens to."""

    def decode(
        self, frame: Tensor, *, rung: Rung, epoch: int, step: int, key_frame: bool = False, out: Tensor | None = None
    ) -> Tensor:
        """Check a frame and return the tensor that the sender now has as its base, [rows, channels] of dtype.

        out: where to put it. Raises FrameError (MagicError, VersionError, LengthError, HeaderMismatch, ChecksumError,
        PayloadError) with the state untouched: the sender's has moved on, so the next frame must be a key frame, and
        until then `prediction` stands in. Raises TensorError for a frame that is not a [n] uint8 tensor.
        """
        header, _ = self._header(rung, epoch, step, key_frame)
        if frame.dtype != torch.uint8 or frame.dim() != 1:
            raise TensorError(f"frame: expected [n] of torch.uint8, got {list(frame.shape)} of {frame.dtype}")
        self._check("frame", frame, frame.shape, torch.uint8)
        out = self._room(out)
        self._coder.decode(frame, rung, header, out, key_frame=key_frame)
        return out

    def prediction(self, out: Tensor | None = None) -> Tensor:
        """Return what the next tensor will probably be, [rows, channels] of dtype; changes nothing."""
        out = self._room(out)
        self._coder.predict(out)
        return out

    def _room(self, out: Tensor | None) -> Tensor:
        if out is None:
            return torch.empty(self._shape, dtype=self._dtype, device=self._state.device)
        self._check("out", out, self._shape, self._dtype)
        return out
