"""Is a safetensors file whole? Read from its header alone, without loading a tensor."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

_MAX_HEADER_BYTES = 100_000_000
_LFS_POINTER = b"version https://git-lfs"
_WIDTH_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
}


@dataclass(frozen=True, slots=True)
class Damage:
    """What should be in a file, what is, and what to do."""

    expected: str
    got: str
    remedy: str = "copy the model again"


def tensors_in(path: Path) -> frozenset[str] | Damage:
    """Return the names of the tensors in `path`, or what is wrong with the file."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_LFS_POINTER))
            file.seek(0)
            size_bytes = path.stat().st_size
            if start == _LFS_POINTER:
                return Damage(f"weights in {path}", "a Git LFS pointer", "run `git lfs pull` in the model's folder")
            if size_bytes < 8:
                return Damage(f"a whole {path}", f"{size_bytes} bytes")
            (header_bytes,) = struct.unpack("<Q", file.read(8))
            if file.peek(1)[:1] not in (b"{", b""):
                return Damage(f"the header of a safetensors file in {path}", "something else")
            if header_bytes > min(_MAX_HEADER_BYTES, size_bytes - 8):
                return Damage(f"a header of {header_bytes} bytes in {path}", f"a file of {size_bytes} bytes")
            header = json.loads(file.read(header_bytes))
    except OSError as error:
        return Damage(f"a readable {path}", (error.strerror or "an error").lower(), "check its rights")
    except (ValueError, RecursionError):
        return Damage(f"the header of a safetensors file in {path}", "something else")
    return _checked(path, header, size_bytes - 8 - header_bytes)


def _checked(path: Path, header: Any, data_bytes: int) -> frozenset[str] | Damage:
    if not isinstance(header, dict):
        return Damage(f"the header of a safetensors file in {path}", "something else")
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    spans = []
    for name, entry in tensors.items():
        span = _span(entry)
        if span is None:
            return Damage(f"dtype, shape and offsets that agree for the tensor {name} in {path}", "others")
        spans.append(span)
    end = 0
    for first, last in sorted(spans):
        if first != end:
            return Damage(f"tensors one after the other in {path}", f"a gap or an overlap at byte {min(first, end)}")
        end = last
    if end != data_bytes:
        return Damage(f"{end} bytes of tensors in {path}", f"{data_bytes}")
    return frozenset(tensors)


def _span(entry: Any) -> tuple[int, int] | None:
    """Return first byte and end of a tensor; None where the entry contradicts itself."""
    try:
        first, last = entry["data_offsets"]
        bits = prod(entry["shape"]) * _WIDTH_BITS[entry["dtype"]]
        is_sound = 0 <= first <= last and (last - first) * 8 == bits
    except (KeyError, TypeError, ValueError):
        return None
    return (first, last) if is_sound else None
