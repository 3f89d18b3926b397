"""What the native kernel needs for transform rungs: tables, scratch memory, and a stream's basis laid out in lanes."""

import ctypes

import torch
from torch import Tensor
from torch.nn.functional import pad

from thinwire.compression.rungs import transform
from thinwire.compression.rungs.memory import RungMemory
from thinwire.compression.scales import thresholds
from thinwire.compression.sums import LANES
from thinwire.compression.transform import trellis
from thinwire.compression.transform.amplitudes import amplitudes
from thinwire.compression.transform.basis import Basis
from thinwire.compression.transform.water import GAINS

_LEVELS = 2 << trellis.MAX_BITS
_LIMITS = _LEVELS // trellis.SUBSETS
_ROWS_AT_ONCE = 8
_COLUMN_ARRAYS = 12
_SLACK = 64


class TransformTables(ctypes.Structure):
    """transform_tables_t."""

    _fields_ = (
        ("quarter", ctypes.c_float * 4),
        ("half_octave", ctypes.c_float * 2),
        ("largest_energy", ctypes.c_float),
        ("gain", ctypes.c_int32 * trellis.MAX_BITS),
        ("limit", ctypes.c_float * _LIMITS * trellis.SUBSETS * (trellis.MAX_BITS + 1)),
        ("level", ctypes.c_float * _LEVELS * (trellis.MAX_BITS + 1)),
    )


def transform_tables() -> TransformTables:
    """Return the reference's constants."""
    tables = TransformTables(
        quarter=(ctypes.c_float * 4)(*amplitudes(torch.arange(4)).tolist()),
        half_octave=(ctypes.c_float * 2)(*thresholds(2, 0.5).tolist()),
        largest_energy=transform.LARGEST_ENERGY,
        gain=(ctypes.c_int32 * trellis.MAX_BITS)(*GAINS),
    )
    for bits in range(1, trellis.MAX_BITS + 1):
        for subset in range(trellis.SUBSETS):
            tables.limit[bits][subset] = (ctypes.c_float * _LIMITS)(*trellis.thresholds(bits, subset))
        tables.level[bits] = (ctypes.c_float * _LEVELS)(*trellis.levels(bits))
    return tables


class _Basis(ctypes.Structure):
    _fields_ = (
        ("blocks", ctypes.c_int64),
        ("size", ctypes.c_int64),
        ("padded", ctypes.c_int64),
        ("forward", ctypes.c_void_p),
        ("inverse", ctypes.c_void_p),
        ("component_before", ctypes.c_void_p),
        ("token_before", ctypes.c_void_p),
        ("component", ctypes.c_void_p),
        ("token", ctypes.c_void_p),
        ("tag", ctypes.c_int64),
    )


class BoundBasis:
    """A stream's basis as the library wants it: [blocks, size, size rounded up to 16]."""

    def __init__(self, basis: Basis) -> None:
        blocks, size, _ = basis.forward.shape
        lanes = -size % LANES
        self._basis = basis
        self._before: RungMemory | None = None
        self._kept = tuple(pad(part, (0, lanes)).contiguous() for part in (basis.forward, basis.inverse))
        self._call = _Basis(blocks=blocks, size=size, padded=size + lanes, tag=basis.tag)
        self._call.forward, self._call.inverse = (part.data_ptr() for part in self._kept)
        self.at = ctypes.addressof(self._call)

    def after(self, before: RungMemory) -> RungMemory:
        """Aim the next call at `before` and at new memory; return that, for a call that is DONE."""
        after = RungMemory(self._basis, torch.empty_like(before.component_codes), torch.empty_like(before.token_codes))
        self._before = before  # the library reads it: it must outlive the call
        call = self._call
        call.component_before, call.token_before = before.component_codes.data_ptr(), before.token_codes.data_ptr()
        call.component, call.token = after.component_codes.data_ptr(), after.token_codes.data_ptr()
        return after


class _Scratch(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_void_p)
        for name in ("components", "decoded", "columns", "even", "plane", "order", "natural", "start", "loud", "bits")
    )


class TransformScratch:
    """Working memory shared by all streams of a kernel; it grows to the largest of them."""

    def __init__(self) -> None:
        self.pointers = _Scratch()
        self.at = ctypes.addressof(self.pointers)
        self._kept: dict[str, Tensor] = {}

    def reserve(self, rows: int, channels: int, stride: int) -> None:
        """Make room for tensors of this shape."""
        pitch = stride + LANES
        wanted = {
            "components": (rows * pitch, torch.float32),
            "decoded": (2 * _ROWS_AT_ONCE * pitch, torch.float32),
            "columns": (_COLUMN_ARRAYS * pitch, torch.float32),
            "even": (min(rows, trellis.BLOCK_ROWS) * pitch, torch.float32),
            "plane": (max(rows * channels, 2 * rows, 2 * channels) + _SLACK, torch.uint8),
            "order": (channels + LANES, torch.int32),
            "natural": (channels + LANES, torch.int32),
            "start": (channels + LANES, torch.int32),
            "loud": (channels, torch.int16),
            "bits": (channels, torch.uint8),
        }
        for name, (size, dtype) in wanted.items():
            if name not in self._kept or self._kept[name].numel() < size:
                self._kept[name] = torch.zeros(size, dtype=dtype)
                setattr(self.pointers, name, self._kept[name].data_ptr())
