"""What crosses the border to the native library: its structures, the reference's constants, scratch memory.

native_c/layout.c mirrors the structures.
"""

import ctypes

import torch
from torch import Tensor

from thinwire.compression import predictor, scales
from thinwire.compression.kernels.eager import LARGEST_ENERGY, LARGEST_VALUE
from thinwire.compression.rungs import per_token
from thinwire.compression.rungs.base import Rung
from thinwire.compression.rungs.per_token import PerTokenRung
from thinwire.compression.rungs.rank_one import SMALLEST_MEAN, Moment, RankOneRung
from thinwire.compression.rungs.raw import RawRung
from thinwire.compression.rungs.side_information import LARGEST_TOP

DONE, _WRONG_HEADER, _WRONG_CRC, _WRONG_PAYLOAD, NOT_FINITE = range(5)
_RAW, _PER_TOKEN, _MEAN_MAGNITUDE, _ROOT_MEAN_SQUARE = range(4)
_MAX_LEVELS = 8
_LANES = 16
_COLUMN_ARRAYS = 16
_CODE_SLACK_BYTES = 64


class NativeStream(ctypes.Structure):
    """stream_t."""

    _fields_ = (
        ("rows", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("stride", ctypes.c_int64),
        ("dtype", ctypes.c_int32),
        ("order", ctypes.c_int32),
        ("base_format", ctypes.c_int32),
        ("newest", ctypes.c_int32),
        ("base", ctypes.c_void_p),
        ("deltas", ctypes.c_void_p * 2),
        ("base_scale", ctypes.c_void_p),
        ("delta_scales", ctypes.c_void_p * 2),
        ("sums", ctypes.c_void_p),
    )


class NativeRung(ctypes.Structure):
    """rung_t; `bits` 0 stands for trits."""

    _fields_ = (
        ("kind", ctypes.c_int32),
        ("levels", ctypes.c_int32),
        ("bits", ctypes.c_int32),
        ("threshold", ctypes.c_float * _MAX_LEVELS),
        ("level", ctypes.c_float * _MAX_LEVELS),
    )


class NativeTables(ctypes.Structure):
    """tables_t."""

    _fields_ = (
        ("step", ctypes.c_float * 256),
        ("inverse_step", ctypes.c_float * 256),
        ("nearest", ctypes.c_float * 16),
        ("nearest_square", ctypes.c_float * 8),
        ("upward", ctypes.c_float * 16),
        ("smallest_top", ctypes.c_float),
        ("smallest_mean", ctypes.c_float),
        ("largest_top", ctypes.c_float),
        ("largest_value", ctypes.c_float),
        ("smallest_sum", ctypes.c_float),
        ("largest_sum", ctypes.c_float),
        ("ridge", ctypes.c_float),
        ("damping", ctypes.c_float),
        ("limit", ctypes.c_float * 2),
        ("decay", ctypes.c_float * 3),
        ("largest_total", ctypes.c_float * 4),
        ("crc", ctypes.c_uint32 * 256 * 16),
    )


class _Scratch(ctypes.Structure):
    _fields_ = (
        ("residual", ctypes.c_void_p),
        ("columns", ctypes.c_void_p),
        ("row_a", ctypes.c_void_p),
        ("row_b", ctypes.c_void_p),
        ("codes", ctypes.c_void_p),
    )


def native_tables(library: ctypes.PyDLL) -> NativeTables:
    """Return the reference's constants, and the library's own table of CRC-32."""
    tables = NativeTables(
        step=(ctypes.c_float * 256)(*scales.step_table().tolist()),
        inverse_step=(ctypes.c_float * 256)(*scales.inverse_step_table().tolist()),
        nearest=(ctypes.c_float * 16)(*scales.thresholds(16, 0.5).tolist()),
        nearest_square=(ctypes.c_float * 8)(*scales.thresholds(8, 0.5).tolist()),
        upward=(ctypes.c_float * 16)(*scales.thresholds(16, 0.0).tolist()),
        smallest_top=scales.SMALLEST_TOP,
        smallest_mean=SMALLEST_MEAN,
        largest_top=LARGEST_TOP,
        largest_value=LARGEST_VALUE,
        smallest_sum=predictor.SMALLEST_SUM,
        largest_sum=predictor.LARGEST_SUM,
        ridge=predictor.RIDGE,
        damping=predictor.DAMPING,
        limit=(ctypes.c_float * 2)(*predictor.LIMITS),
        decay=(ctypes.c_float * 3)(*predictor.DECAY),
        largest_total=(ctypes.c_float * 4)(
            0.0, per_token.LARGEST, Moment.MEAN_MAGNITUDE.value, min(Moment.ROOT_MEAN_SQUARE.value, LARGEST_ENERGY)
        ),
    )
    library.thinwire_fill_crc(ctypes.byref(tables, NativeTables.crc.offset))
    return tables


def describe(rung: Rung) -> NativeRung | None:
    """Translate a rung for the library; None for one that the reference must serve."""
    if isinstance(rung, RawRung):
        return NativeRung(kind=_RAW)
    if isinstance(rung, PerTokenRung):
        return NativeRung(kind=_PER_TOKEN, levels=rung.levels, bits=4 if rung.plane.per_byte == 2 else 8)
    if isinstance(rung, RankOneRung):
        return NativeRung(
            kind=_MEAN_MAGNITUDE if rung.moment is Moment.MEAN_MAGNITUDE else _ROOT_MEAN_SQUARE,
            levels=len(rung.levels),
            bits=0 if len(rung.levels) == 3 else len(rung.levels).bit_length() - 1,
            threshold=(ctypes.c_float * _MAX_LEVELS)(*rung.thresholds),
            level=(ctypes.c_float * _MAX_LEVELS)(*rung.levels),
        )
    return None


class Scratch:
    """Working memory shared by all streams of a kernel; it grows to the largest of them."""

    def __init__(self) -> None:
        self.pointers = _Scratch()
        self._sizes = [0, 0, 0, 0]
        self._kept: tuple[Tensor, ...] = ()

    def reserve(self, rows: int, channels: int, stride: int) -> None:
        """Make room for tensors of this shape."""
        padded_rows = -(-rows // _LANES) * _LANES
        wanted = (rows * stride, _COLUMN_ARRAYS * stride, padded_rows, rows * channels + _CODE_SLACK_BYTES)
        if all(size <= had for size, had in zip(wanted, self._sizes, strict=True)):
            return
        self._sizes = [max(pair) for pair in zip(self._sizes, wanted, strict=True)]
        residual, columns, row, codes = self._sizes
        floats = (torch.zeros(size, dtype=torch.float32) for size in (residual, columns, row, row))
        self._kept = (*floats, torch.zeros(codes, dtype=torch.uint8))
        for (name, _), tensor in zip(_Scratch._fields_, self._kept, strict=True):
            setattr(self.pointers, name, tensor.data_ptr())
