"""What identifies a stream of tensors between two ranks, and how its base is kept."""

from dataclasses import dataclass
from enum import IntEnum


class Exchange(IntEnum):
    """The operation that carries a tensor; the values are the wire format's."""

    RING = 1
    ULYSSES_INPUT = 2
    ULYSSES_OUTPUT = 3
    PIPEFUSION = 4
    GUIDANCE = 5


class Role(IntEnum):
    """What a tensor is to its layer; the values are the wire format's."""

    KEY = 1
    VALUE = 2
    QUERY = 3
    OUTPUT = 4
    HIDDEN = 5


class BaseFormat(IntEnum):
    """How both ends keep base and deltas between two steps; the values are the wire format's.

    FULL: base in float32 (4 bytes a value), each delta in bfloat16 (2 bytes a value).
    INT8: all of them in int8 with one float32 scale per row (1 byte a value each).
    """

    FULL = 0
    INT8 = 1


_LIMITS = {"layer": 0xFFFF, "branch": 0xFF, "source": 0xFFFF, "destination": 0xFFFF}


@dataclass(frozen=True, slots=True)
class StreamId:
    """One stream: the same tensor, step after step, from one rank to another.

    layer: index of the layer (0 to 65535). branch: guidance branch (0 to 255). source, destination: ranks (0 to 65535);
    a frame that goes to everybody keeps destination 0. Raises ValueError outside these ranges.
    """

    exchange: Exchange
    layer: int
    role: Role
    branch: int
    source: int
    destination: int = 0

    def __post_init__(self) -> None:
        for field, limit in _LIMITS.items():
            value = getattr(self, field)
            if not 0 <= value <= limit:
                raise ValueError(f"stream {field}: expected 0 to {limit}, got {value}")
