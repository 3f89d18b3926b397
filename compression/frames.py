"""The frame: 40 bytes of header, checked field by field, then a payload of known size (docs/wire-format.md)."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Never

import torch
from torch import Tensor

from thinwire.compression.checksums import crc32
from thinwire.compression.dtypes import dtype_named, dtype_wire_id
from thinwire.compression.errors import ChecksumError, HeaderMismatch, LengthError, MagicError, VersionError
from thinwire.compression.rungs.base import Rung
from thinwire.compression.streams import BaseFormat, StreamId

MAGIC = b"tw"
VERSION = 2
HEADER_BYTES = 40
CHECKED_BYTES = 36  # all but the CRC-32: what a receiver knows beforehand

_LAYOUT = struct.Struct("<2sBBBBHIIIIHHHBBI")
_CRC = struct.Struct("<I")
_FIELDS = (
    "magic",
    "version",
    "format",
    "rung",
    "branch",
    "rate (millibits)",
    "epoch",
    "step",
    "rows",
    "channels",
    "layer",
    "source",
    "destination",
    "exchange",
    "role",
    "length",
)
_FORMAT_PARTS = (("dtype", 0, 0b111), ("key frame", 3, 0b1), ("predictor order", 4, 0b11), ("base format", 6, 0b11))


@dataclass(frozen=True, slots=True)
class FrameLayout:
    """What both ends of a stream fix when they open it; it turns one step's arguments into a header."""

    stream: StreamId
    rows: int
    channels: int
    dtype: torch.dtype
    order: int
    base_format: BaseFormat

    def header(self, rung: Rung, *, epoch: int, step: int, key_frame: bool, payload_bytes: int) -> bytes:
        """Return the first 36 bytes of a frame. Raises ValueError unless 0 <= epoch, step < 2**32."""
        for field, value in (("epoch", epoch), ("step", step)):
            if not 0 <= value < 2**32:
                raise ValueError(f"{field}: expected 0 to 2**32 - 1, got {value}")
        stream = self.stream
        form = dtype_wire_id(self.dtype) | key_frame << 3 | self.order << 4 | self.base_format << 6
        return _LAYOUT.pack(
            MAGIC,
            VERSION,
            form,
            rung.wire_id,
            stream.branch,
            rung.millibits,
            epoch,
            step,
            self.rows,
            self.channels,
            stream.layer,
            stream.source,
            stream.destination,
            stream.exchange,
            stream.role,
            payload_bytes,
        )


def seal(header: bytes, payload: Tensor, frame: Tensor) -> None:
    """Write header, CRC-32 and payload into `frame`."""
    prefix = bytearray(header + _CRC.pack(crc32(payload)))
    frame[:HEADER_BYTES] = torch.frombuffer(prefix, dtype=torch.uint8)
    frame[HEADER_BYTES:] = payload


def open_frame(frame: Tensor, header: bytes, expected_bytes: int) -> Tensor:
    """Check `frame` against the header this exchange expects and return its payload, [n] uint8.

    Raises LengthError, MagicError, VersionError, HeaderMismatch or ChecksumError, in this order.
    """
    require_length(frame, header, expected_bytes)
    prefix = bytes(frame[:HEADER_BYTES].cpu().numpy())
    if prefix[:CHECKED_BYTES] != header:
        _refuse_header(header, prefix[:CHECKED_BYTES])
    payload = frame[HEADER_BYTES:]
    (promised,) = _CRC.unpack(prefix[CHECKED_BYTES:])
    got = crc32(payload)
    if got != promised:
        raise ChecksumError(promised, got)
    return payload


def require_length(frame: Tensor, header: bytes, expected_bytes: int) -> None:
    """Raise LengthError unless the frame has so many bytes, with what its header says otherwise, if it is one."""
    if frame.numel() == expected_bytes:
        return
    prefix = bytes(frame[:CHECKED_BYTES].cpu().numpy())
    readable = len(prefix) == CHECKED_BYTES and prefix[:3] == header[:3]
    raise LengthError(expected_bytes, frame.numel(), next(_differences(header, prefix), None) if readable else None)


def _refuse_header(expected: bytes, got: bytes) -> Never:
    """Raise the error that names the first field in which two headers differ."""
    field, wanted, came = next(_differences(expected, got))
    raise {"magic": MagicError, "version": VersionError}.get(field, HeaderMismatch)(field, wanted, came)


def _differences(expected: bytes, got: bytes) -> Iterator[tuple[str, object, object]]:
    """Yield every field in which two headers differ, what was expected and what came; of the format, its parts."""
    for field, wanted, came in zip(_FIELDS, _LAYOUT.unpack(expected), _LAYOUT.unpack(got), strict=True):
        if field == "format":
            yield from _format_differences(wanted, came)
        elif wanted != came:
            yield field, wanted, came


def _format_differences(expected: int, got: int) -> Iterator[tuple[str, object, object]]:
    for part, shift, mask in _FORMAT_PARTS:
        wanted, came = expected >> shift & mask, got >> shift & mask
        if wanted != came:
            yield (part, dtype_named(wanted), dtype_named(came)) if part == "dtype" else (part, wanted, came)
