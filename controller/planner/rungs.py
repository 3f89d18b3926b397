"""What a frame of every rung takes on the wire: prices alone, the codec itself is the runtime's.

A test holds these figures against the codec's own (docs/wire-format.md has the formulas).
"""

from __future__ import annotations

from dataclasses import dataclass

HEADER_BYTES = 40
_TOP_BYTES = 4
OFF = "off"
OFF_MILLIBITS = 16_000
"""From this rate on nothing is coded, whatever the model's width."""


@dataclass(frozen=True, slots=True)
class RungPrice:
    """One rung: codes of `planes` (so many to a byte), one scale byte per row and, where it says so, per channel."""

    name: str
    millibits: int
    distortion: float
    planes: tuple[int, ...]
    scales_channels: bool = False

    def frame_bytes(self, rows: int, channels: int) -> int:
        """Return the bytes of a frame of [rows, channels], header and scales included."""
        codes = sum(-(-rows * channels // per_byte) for per_byte in self.planes)
        return HEADER_BYTES + _TOP_BYTES + rows + (channels if self.scales_channels else 0) + codes


INT8 = RungPrice("int8", 8_000, 4.2e-5, (1,))
INT4 = RungPrice("int4", 4_000, 1.35e-2, (2,))
LADDER = (
    INT8,
    INT4,
    RungPrice("bits3", 3_000, 0.03454, (4, 8), scales_channels=True),
    RungPrice("bits2", 2_000, 0.1175, (4,), scales_channels=True),
    RungPrice("ternary", 1_600, 0.1902, (5,), scales_channels=True),
    RungPrice("bits1", 1_000, 0.3634, (8,), scales_channels=True),
)
"""What a rate may choose, from least to most loss."""


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
