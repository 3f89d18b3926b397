"""What a frame of every rung takes on the wire: prices alone, the codec itself is the runtime's.

A test holds these figures against the codec's own (docs/wire-format.md has the formulas).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

HEADER_BYTES = 40
_TOP_BYTES = 4
_LEADER_BYTES = 6
_BEND_BITS = 3
OFF = "off"
OFF_MILLIBITS = 16_000
"""From this rate on nothing is coded, whatever the model's width."""


@dataclass(frozen=True, slots=True)
class RungPrice(ABC):
    """One rung: what its name says of its bits, and the share of a residual's energy that it loses."""

    name: str
    millibits: int
    distortion: float

    @abstractmethod
    def frame_bytes(self, rows: int, channels: int) -> int:
        """Return the bytes of a frame of [rows, channels], header and scales included."""


@dataclass(frozen=True, slots=True)
class ScalarPrice(RungPrice):
    """Codes of `planes` (so many to a byte), one scale byte per row and, where it says so, per channel."""

    planes: tuple[int, ...]
    scales_channels: bool = False

    def frame_bytes(self, rows: int, channels: int) -> int:
        """See RungPrice."""
        codes = sum(-(-rows * channels // per_byte) for per_byte in self.planes)
        return HEADER_BYTES + _TOP_BYTES + rows + (channels if self.scales_channels else 0) + codes


@dataclass(frozen=True, slots=True)
class TransformPrice(RungPrice):
    """What its rate allows, and at least a leader and one bit for every row and channel.

    That is the rate spread evenly. The ranks give each layer and role a rate of its own, the same or less in sum.
    """

    @classmethod
    def of(cls, millibits: int) -> TransformPrice:
        """Price a rate; pictures gain less from a bit above `_BEND_BITS`."""
        bits = millibits / 1000
        halvings = 3.4 * min(bits, _BEND_BITS) + 1.5 * max(bits - _BEND_BITS, 0)
        return cls(f"transform-{millibits}", millibits, 1.4 * 2.0**-halvings)

    def frame_bytes(self, rows: int, channels: int) -> int:
        """See RungPrice."""
        least = _LEADER_BYTES + -(-(rows + channels) // 8)
        return HEADER_BYTES + max(-(-rows * channels * self.millibits // 8_000), least)


INT8 = ScalarPrice("int8", 8_000, 4.2e-5, (1,))
INT4 = ScalarPrice("int4", 4_000, 1.35e-2, (2,))
LADDER: tuple[RungPrice, ...] = (
    INT8,
    INT4,
    ScalarPrice("bits3", 3_000, 0.03454, (4, 8), scales_channels=True),
    ScalarPrice("bits2", 2_000, 0.1175, (4,), scales_channels=True),
    ScalarPrice("ternary", 1_600, 0.1902, (5,), scales_channels=True),
    ScalarPrice("bits1", 1_000, 0.3634, (8,), scales_channels=True),
)
"""What a rate may choose, from least to most loss."""
_RATES = (6_000, 5_000, 4_000, 3_000, 2_500, 2_000, 1_500, 1_250, 1_000, 750, 600, 500, 350, 250)
CALIBRATED_LADDER: tuple[RungPrice, ...] = tuple(
    sorted((*LADDER, *map(TransformPrice.of, _RATES)), key=lambda rung: (rung.distortion, rung.millibits))
)
"""The same for a model that was calibrated."""


def ladder(*, calibrated: bool) -> tuple[RungPrice, ...]:
    """Return what a rate may choose, from least to most loss."""
    return CALIBRATED_LADDER if calibrated else LADDER


def without_basis(rung: RungPrice) -> RungPrice:
    """Return what codes a tensor that is not attention's and so has no basis: a scalar rung of no fewer bits."""
    if not isinstance(rung, TransformPrice):
        return rung
    return min((one for one in LADDER if one.millibits >= rung.millibits), key=lambda one: one.millibits)


def picture_rung(rung: RungPrice) -> RungPrice:
    """Return what codes guidance branches and the last stage's latents when `rung` is commanded: 8 bits at least."""
    return rung if rung.millibits >= INT8.millibits else INT8


def raw_frame_bytes(rows: int, channels: int, value_bytes: int) -> int:
    """Return the bytes of a whole tensor in a frame: a key frame above 4 bits."""
    return HEADER_BYTES + rows * channels * value_bytes


def key_frame_bytes(rung: RungPrice, rows: int, channels: int, value_bytes: int) -> int:
    """Return the bytes of a key frame on links that `rung` codes: in 8 bits a value at 4 bits and below, else whole."""
    if rung.millibits <= INT4.millibits:
        return INT8.frame_bytes(rows, channels)
    return raw_frame_bytes(rows, channels, value_bytes)
