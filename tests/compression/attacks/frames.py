"""Hostile frames. Each attack takes a good frame and what was agreed on, and returns one that must be refused.

`resealed` gives a frame a valid CRC-32 again: what then refuses it is not the checksum but the meaning of the bytes.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from thinwire.compression import (
    BITS1,
    BITS2,
    BITS3,
    FP8,
    HEADER_BYTES,
    INT4,
    INT8,
    LOW_RANK_8,
    LOW_RANK_8_INT4,
    RAW,
    RUNGS,
    SPARSE_1_OF_8,
    SPARSE_2_OF_4,
    TERNARY,
    ChecksumError,
    FrameError,
    HeaderMismatch,
    LengthError,
    MagicError,
    PayloadError,
    Rung,
    VersionError,
)

CODED = tuple(rung for rung in RUNGS if rung is not RAW)


@dataclass(frozen=True, slots=True)
class Attack:
    """A way to break a frame of `rung`, and the refusal it must meet."""

    name: str
    rung: Rung
    forge: Callable[[bytes], bytes]
    refusal: type[FrameError]


def resealed(frame: bytes) -> bytes:
    """Write the CRC-32 that the payload really has."""
    return frame[:36] + struct.pack("<I", zlib.crc32(frame[HEADER_BYTES:])) + frame[HEADER_BYTES:]


def put(frame: bytes, offset: int, data: bytes) -> bytes:
    """Overwrite at `offset` (from the end if negative)."""
    offset %= len(frame)
    return frame[:offset] + data + frame[offset + len(data) :]


def _top(value: float) -> Callable[[bytes], bytes]:
    return lambda frame: resealed(put(frame, HEADER_BYTES, struct.pack("<f", value)))


def _last_byte(value: int) -> Callable[[bytes], bytes]:
    return lambda frame: resealed(put(frame, -1, bytes([value])))


def attacks() -> Iterator[Attack]:
    """All attacks; frames are of a [3, 5] tensor, whose codes leave unused digits in the last bytes."""
    for rung in RUNGS:
        yield Attack("empty", rung, lambda frame: b"", LengthError)
        yield Attack("header alone", rung, lambda frame: frame[:HEADER_BYTES], LengthError)
        yield Attack("one byte short", rung, lambda frame: frame[:-1], LengthError)
        yield Attack("one byte long", rung, lambda frame: frame + b"\0", LengthError)
        yield Attack("twice", rung, lambda frame: frame + frame, LengthError)
        yield Attack("zeros", rung, lambda frame: bytes(len(frame)), MagicError)
        yield Attack("ones", rung, lambda frame: b"\xff" * len(frame), MagicError)
        yield Attack("reversed", rung, lambda frame: frame[::-1], MagicError)
        yield Attack("next version", rung, lambda frame: put(frame, 2, b"\x03"), VersionError)
        yield Attack("dtype that is none", rung, lambda frame: put(frame, 3, b"\x27"), HeaderMismatch)
        yield Attack("all format bits", rung, lambda frame: put(frame, 3, b"\xff"), HeaderMismatch)
        yield Attack("rung that is none", rung, lambda frame: put(frame, 4, b"\xfe"), HeaderMismatch)
        yield Attack("another rate", rung, lambda frame: put(frame, 6, b"\xff\xff"), HeaderMismatch)
        yield Attack("huge rows", rung, lambda frame: put(frame, 16, b"\xff" * 4), HeaderMismatch)
        yield Attack("huge channels", rung, lambda frame: put(frame, 20, b"\xff" * 4), HeaderMismatch)
        yield Attack("swapped shape", rung, lambda frame: put(frame, 16, frame[20:24] + frame[16:20]), HeaderMismatch)
        yield Attack("huge length", rung, lambda frame: put(frame, 32, b"\xff" * 4), HeaderMismatch)
        yield Attack("payload zeroed", rung, lambda frame: frame[:40] + bytes(len(frame) - 40), ChecksumError)
        yield Attack("checksum zeroed", rung, lambda frame: put(frame, 36, bytes(4)), ChecksumError)
    for rung in CODED:
        for value in (float("nan"), float("inf"), -float("inf"), -1.0, 3e38, 1e-45, -0.5):
            yield Attack(f"top {value}", rung, _top(value), PayloadError)
    for rung, byte in ((BITS1, 0x80), (BITS2, 0xC0), (BITS3, 0x80), (INT4, 0xF0), (INT4, 0x10)):
        yield Attack(f"last byte {byte:#x}", rung, _last_byte(byte), PayloadError)
    yield Attack("low plane with a code past the end", BITS3, lambda f: resealed(put(f, -3, b"\xff")), PayloadError)
    yield Attack("a fifteenth level", INT4, lambda frame: resealed(put(frame, 47, b"\x0f")), PayloadError)
    yield Attack("a 256th level", INT8, lambda frame: resealed(put(frame, 47, b"\xff")), PayloadError)
    for byte in (243, 255):
        yield Attack(f"trits {byte}", TERNARY, lambda frame, b=byte: resealed(put(frame, -1, bytes([b]))), PayloadError)
    for byte in (0x7F, 0xFF):
        yield Attack(f"fp8 NaN {byte:#x}", FP8, lambda f, b=byte: resealed(put(f, 47, bytes([b]))), PayloadError)
    for element in (b"\x01\x3c", b"\x00\x7c", b"\x00\xfe"):  # the float16 after 1, infinity, NaN
        yield Attack(f"factor {element.hex()}", LOW_RANK_8, lambda f, e=element: resealed(put(f, 47, e)), PayloadError)
    yield Attack("a factor's fifteenth level", LOW_RANK_8_INT4, lambda f: resealed(put(f, 47, b"\x0f")), PayloadError)
    # 6 groups: their patterns' low planes end 1 byte before the last, and the last has two unused bits
    yield Attack(
        "a seventh pattern of six", SPARSE_2_OF_4, lambda f: resealed(put(f, -3, b"\xaa\x0a\x3f")), PayloadError
    )
    yield Attack("a pattern past the end", SPARSE_1_OF_8, lambda f: resealed(put(f, -1, b"\x80")), PayloadError)
    yield Attack("a value past the last channel", SPARSE_1_OF_8, _past_the_last_channel, PayloadError)


def _past_the_last_channel(frame: bytes) -> bytes:
    """Three groups of five channels, each said to keep its eighth, with values that are not 0."""
    values = struct.pack("<f", 1.0) + b"\xff" * 3 + b"\x88\x08"
    return resealed(frame[:HEADER_BYTES] + values + b"\x3f\x07")
