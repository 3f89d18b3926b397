"""The table of rungs, and the ladder: the ones a rate may choose. A new rung is one file and one entry in RUNGS."""

import torch

from thinwire.compression.dtypes import dtype_wire_id
from thinwire.compression.errors import RungError, TensorError
from thinwire.compression.frames import HEADER_BYTES
from thinwire.compression.rungs.base import Rung
from thinwire.compression.rungs.fp8 import FP8
from thinwire.compression.rungs.low_rank import (
    LOW_RANK_8,
    LOW_RANK_8_INT4,
    LOW_RANK_16,
    LOW_RANK_16_INT4,
    LOW_RANK_32,
    LOW_RANK_32_INT4,
)
from thinwire.compression.rungs.per_token import INT4, INT8
from thinwire.compression.rungs.rank_one import BITS1, BITS2, BITS3, TERNARY
from thinwire.compression.rungs.raw import RawRung
from thinwire.compression.rungs.sparse import SPARSE_1_OF_8, SPARSE_2_OF_4
from thinwire.compression.rungs.transform import TransformRung

__all__ = [
    "BITS1",
    "BITS2",
    "BITS3",
    "CALIBRATED_LADDER",
    "FP8",
    "INT4",
    "INT8",
    "LADDER",
    "LOW_RANK_8",
    "LOW_RANK_8_INT4",
    "LOW_RANK_16",
    "LOW_RANK_16_INT4",
    "LOW_RANK_32",
    "LOW_RANK_32_INT4",
    "RAW",
    "RUNGS",
    "SPARSE_1_OF_8",
    "SPARSE_2_OF_4",
    "TERNARY",
    "frame_bytes",
    "rung_named",
    "true_millibits",
]

RAW = RawRung()
# What a rate is met with: from rung to rung fewer bits and more loss, at every shape (docs/codec.md has the others).
LADDER: tuple[Rung, ...] = (RAW, INT8, INT4, BITS3, BITS2, TERNARY, BITS1)
# Every rung that needs no basis; those beyond the ladder are chosen by name.
RUNGS: tuple[Rung, ...] = (
    *LADDER,
    FP8,
    SPARSE_2_OF_4,
    SPARSE_1_OF_8,
    LOW_RANK_8,
    LOW_RANK_16,
    LOW_RANK_32,
    LOW_RANK_8_INT4,
    LOW_RANK_16_INT4,
    LOW_RANK_32_INT4,
)
# For streams that were opened with a basis.
CALIBRATED_LADDER: tuple[Rung, ...] = (
    RAW,
    INT8,
    *(
        TransformRung(rate)
        for rate in (6_000, 5_000, 4_000, 3_000, 2_500, 2_000, 1_500, 1_250, 1_000, 750, 600, 500, 350, 250)
    ),
)


def rung_named(name: str) -> Rung:
    """Return the rung of that name (`transform-750` for any rate); raises RungError with the names there are."""
    for rung in RUNGS:
        if rung.name == name:
            return rung
    family, _, millibits = name.partition("-")
    if family == "transform" and millibits.isdecimal():
        return TransformRung(int(millibits))
    known = ", ".join(rung.name for rung in RUNGS)
    raise RungError(f"rung: expected one of {known}, or transform-MILLIBITS, got {name!r}")


def frame_bytes(rung: Rung, rows: int, channels: int, dtype: torch.dtype) -> int:
    """Return the bytes of a frame, header and scales included: a pure function of its arguments.

    Raises TensorError for a negative or too large shape and for an unknown dtype.
    """
    dtype_wire_id(dtype)
    for field, size in (("rows", rows), ("channels", channels)):
        if not 0 <= size < 2**31:
            raise TensorError(f"{field}: expected 0 to 2**31 - 1, got {size}")
    return HEADER_BYTES + rung.payload_bytes(rows, channels, dtype)


def true_millibits(rung: Rung, rows: int, channels: int, dtype: torch.dtype) -> int:
    """Return a frame's bits per value times 1,000, rounded up; 0 for an empty tensor."""
    values = rows * channels
    return -(-frame_bytes(rung, rows, channels, dtype) * 8_000 // values) if values else 0
