"""The native kernel: native_c/, compiled on this machine and called once per tensor through ctypes.

The library is called with the interpreter's lock held (PyDLL): a call takes microseconds, and the scratch memory that
all streams of a kernel share needs no lock of its own.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from thinwire.compression.dtypes import dtype_wire_id
from thinwire.compression.errors import NonFiniteError, PayloadError
from thinwire.compression.frames import HEADER_BYTES, open_frame, require_length
from thinwire.compression.kernels.build import BuildError, built_library
from thinwire.compression.kernels.eager import EagerCoder, EagerKernel
from thinwire.compression.kernels.fingerprint import fingerprint_of
from thinwire.compression.kernels.native_layout import (
    DONE,
    NativeRung,
    NativeStream,
    NativeTables,
    Scratch,
    describe,
    native_tables,
)
from thinwire.compression.kernels.native_transform import (
    BoundBasis,
    TransformScratch,
    TransformTables,
    transform_tables,
)
from thinwire.compression.rungs.base import Rung
from thinwire.compression.rungs.memory import RungMemory
from thinwire.compression.rungs.transform import TransformRung
from thinwire.compression.state import StreamState


class NativeCoder:
    """One end of one stream in native code; state planes are written in place."""

    __slots__ = ("_basis", "_dtype", "_kernel", "_reference", "_state", "_stream", "_stream_at")

    def __init__(self, kernel: "NativeKernel", state: StreamState, dtype: torch.dtype) -> None:
        self._kernel, self._state, self._dtype = kernel, state, dtype
        self._reference = EagerCoder(state, dtype)
        self._basis = BoundBasis(state.basis) if state.basis is not None and state.rows and state.channels else None
        self._stream = NativeStream(
            rows=state.rows,
            channels=state.channels,
            stride=state.base.shape[1],
            dtype=dtype_wire_id(dtype),
            order=state.order,
            base_format=state.base_format,
            base=state.base.data_ptr(),
            deltas=(ctypes.c_void_p * 2)(*(tensor.data_ptr() for tensor in state.deltas)),
            base_scale=state.base_scale.data_ptr(),
            delta_scales=(ctypes.c_void_p * 2)(*(tensor.data_ptr() for tensor in state.delta_scales)),
            sums=state.sums.data_ptr(),
        )
        self._stream_at = ctypes.addressof(self._stream)

    def encode(self, x_RC: Tensor, rung: Rung, header: bytes, frame: Tensor, *, key_frame: bool) -> float:
        """See Coder."""
        kernel, stream = self._kernel, self._stream
        if isinstance(rung, TransformRung) and self._basis is not None:
            return self._encode_components(self._basis, x_RC, rung, header, frame, key_frame=key_frame)
        rung_at = kernel.rung_at(rung)
        if rung_at is None:
            return self._reference.encode(x_RC, rung, header, frame, key_frame=key_frame)
        stream.newest = self._state.newest
        status = kernel.encode_call(
            self._stream_at,
            rung_at,
            kernel.tables_at,
            kernel.scratch_at,
            x_RC.data_ptr(),
            header,
            frame.data_ptr(),
            frame.numel() - HEADER_BYTES,
            key_frame,
            kernel.relative_error_at,
        )
        if status != DONE:
            raise NonFiniteError(f"{rung.name}: expected finite values up to 2**60; send the tensor raw")
        self._moved_on(key_frame=key_frame)
        return kernel.relative_error.value

    def _encode_components(
        self, basis: BoundBasis, x_RC: Tensor, rung: Rung, header: bytes, frame: Tensor, *, key_frame: bool
    ) -> float:
        kernel, state = self._kernel, self._state
        after = basis.after(self._memory(key_frame=key_frame))
        self._stream.newest = state.newest
        status = kernel.transform_encode_call(
            self._stream_at,
            basis.at,
            kernel.tables_at,
            kernel.transform_tables_at,
            kernel.scratch_at,
            kernel.transform_scratch.at,
            x_RC.data_ptr(),
            header,
            frame.data_ptr(),
            frame.numel() - HEADER_BYTES,
            key_frame,
            kernel.relative_error_at,
        )
        if status != DONE:  # the reference says why
            return self._reference.encode(x_RC, rung, header, frame, key_frame=key_frame)
        state.newest, state.memory = self._stream.newest, after
        return kernel.relative_error.value

    def _memory(self, *, key_frame: bool) -> RungMemory:
        state = self._state
        return RungMemory.fresh(state.basis, state.rows, state.device) if key_frame else state.memory

    def decode(self, frame: Tensor, rung: Rung, header: bytes, x_RC: Tensor, *, key_frame: bool) -> None:
        """See Coder."""
        kernel, stream, state = self._kernel, self._stream, self._state
        if isinstance(rung, TransformRung) and self._basis is not None:
            self._decode_components(self._basis, frame, rung, header, x_RC, key_frame=key_frame)
            return
        rung_at = kernel.rung_at(rung)
        if rung_at is None:
            self._reference.decode(frame, rung, header, x_RC, key_frame=key_frame)
            return
        payload_bytes = self._payload_bytes(frame, rung, header)
        stream.newest = state.newest
        status = kernel.decode_call(
            self._stream_at,
            rung_at,
            kernel.tables_at,
            kernel.scratch_at,
            frame.data_ptr(),
            header,
            x_RC.data_ptr(),
            payload_bytes,
            key_frame,
        )
        if status != DONE:
            payload = open_frame(frame, header, HEADER_BYTES + payload_bytes)
            rung.decode(payload, state.rows, state.channels, self._dtype, state.memory)
            raise PayloadError("frame payload: expected what an encoder writes; ask for a key frame")
        self._moved_on(key_frame=key_frame)

    def _decode_components(
        self, basis: BoundBasis, frame: Tensor, rung: Rung, header: bytes, x_RC: Tensor, *, key_frame: bool
    ) -> None:
        kernel, state = self._kernel, self._state
        payload_bytes = self._payload_bytes(frame, rung, header)
        after = basis.after(self._memory(key_frame=key_frame))
        self._stream.newest = state.newest
        status = kernel.transform_decode_call(
            self._stream_at,
            basis.at,
            kernel.tables_at,
            kernel.transform_tables_at,
            kernel.scratch_at,
            kernel.transform_scratch.at,
            frame.data_ptr(),
            header,
            x_RC.data_ptr(),
            payload_bytes,
            key_frame,
        )
        if status != DONE:  # the reference says why
            self._reference.decode(frame, rung, header, x_RC, key_frame=key_frame)
            return
        state.newest, state.memory = self._stream.newest, after

    def _payload_bytes(self, frame: Tensor, rung: Rung, header: bytes) -> int:
        """Return what a frame of this rung carries; raises LengthError where `frame` is shorter or longer."""
        payload_bytes = rung.payload_bytes(self._state.rows, self._state.channels, self._dtype)
        require_length(frame, header, HEADER_BYTES + payload_bytes)
        return payload_bytes

    def _moved_on(self, *, key_frame: bool) -> None:
        state = self._state
        state.newest = self._stream.newest
        state.memory = self._memory(key_frame=key_frame)

    def predict(self, x_RC: Tensor) -> None:
        """See Coder."""
        kernel = self._kernel
        self._stream.newest = self._state.newest
        kernel.predict_call(self._stream_at, kernel.tables_at, kernel.scratch_at, x_RC.data_ptr())


@dataclass(slots=True)
class NativeKernel:
    """The compiled library at `path`, for tensors in CPU memory."""

    path: Path
    name: str = "native"
    relative_error: ctypes.c_double = field(default_factory=ctypes.c_double)
    relative_error_at: int = field(init=False)
    tables_at: int = field(init=False)
    scratch_at: int = field(init=False)
    encode_call: Callable[..., int] = field(init=False)
    decode_call: Callable[..., int] = field(init=False)
    predict_call: Callable[..., None] = field(init=False)
    transform_encode_call: Callable[..., int] = field(init=False)
    transform_decode_call: Callable[..., int] = field(init=False)
    transform_tables_at: int = field(init=False)
    transform_scratch: TransformScratch = field(default_factory=TransformScratch)
    _transform_tables: TransformTables = field(default_factory=transform_tables)
    _tables: NativeTables = field(init=False)
    _scratch: Scratch = field(default_factory=Scratch)
    _rungs: dict[str, tuple[int | None, NativeRung | None]] = field(default_factory=dict)
    _fingerprint: str = ""

    def __post_init__(self) -> None:
        try:
            library = ctypes.PyDLL(str(self.path))
        except OSError as error:
            raise BuildError(f"{self.path} cannot be loaded: {error}") from error
        at, size, flag = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
        library.thinwire_encode.argtypes = (at, at, at, at, at, ctypes.c_char_p, at, size, flag, at)
        library.thinwire_decode.argtypes = (at, at, at, at, at, ctypes.c_char_p, at, size, flag)
        library.thinwire_transform_encode.argtypes = (*(at,) * 7, ctypes.c_char_p, at, size, flag, at)
        library.thinwire_transform_decode.argtypes = (*(at,) * 7, ctypes.c_char_p, at, size, flag)
        library.thinwire_predict.argtypes = (at, at, at, at)
        library.thinwire_predict.restype = None
        library.thinwire_fill_crc.restype = None
        self._tables = native_tables(library)
        self.relative_error_at = ctypes.addressof(self.relative_error)
        self.tables_at = ctypes.addressof(self._tables)
        self.scratch_at = ctypes.addressof(self._scratch.pointers)
        self.encode_call = library.thinwire_encode
        self.decode_call = library.thinwire_decode
        self.predict_call = library.thinwire_predict
        self.transform_encode_call = library.thinwire_transform_encode
        self.transform_decode_call = library.thinwire_transform_decode
        self.transform_tables_at = ctypes.addressof(self._transform_tables)

    def rung_at(self, rung: Rung) -> int | None:
        """Return the address of the library's description of a rung; None where the reference must serve."""
        if rung.name not in self._rungs:
            description = describe(rung)
            self._rungs[rung.name] = (ctypes.addressof(description) if description else None, description)
        return self._rungs[rung.name][0]

    @property
    def fingerprint(self) -> str:
        """See Kernel; computed at the first call."""
        if not self._fingerprint:
            self._fingerprint = fingerprint_of(self)
        return self._fingerprint

    def bind(self, state: StreamState, dtype: torch.dtype) -> NativeCoder:
        """See Kernel; raises NotImplementedError for a state that is not in CPU memory."""
        if state.device.type != "cpu":
            raise NotImplementedError(f"native kernel: expected a stream on the CPU, got {state.device}; use eager")
        self._scratch.reserve(state.rows, state.channels, state.base.shape[1])
        if state.basis is not None:
            self.transform_scratch.reserve(state.rows, state.channels, state.base.shape[1])
        return NativeCoder(self, state, dtype)


def load_native_kernel() -> NativeKernel:
    """Build (once per machine) and load the native kernel; raises BuildError with the reason if that cannot be."""
    return NativeKernel(built_library(_require_agreement))


def _require_agreement(path: Path) -> None:
    """Reject a library that computes other bits than the reference."""
    expected, got = EagerKernel().fingerprint, NativeKernel(path).fingerprint
    if expected != got:
        raise BuildError(f"the compiled kernel computes other bits than the reference ({got}, not {expected})")
