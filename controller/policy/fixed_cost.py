"""What windows of different sizes say of an exchange's fixed cost alpha, in t = alpha + b / beta.

Two sizes side by side in time share one link: the line through both gives alpha. A line is as sure as its sizes are
apart and its points are many: the second point is the mean of the first few windows of its size, so that one window in
which ranks waited for a processor is not the last word, and lines that an error of their points moves far have no say
beside others. The few newest ones vote; one that a changing link has bent is far from sure, and alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from thinwire.controller.policy.reports import Window

SIZES_APART = 2.0
ONE_PACKET_BYTES = 1_500.0

_REMEMBERED_LINES = 4
_POOLED_WINDOWS = 3
_AS_SURE = 2.0
_SPREAD_WITHIN = 0.3
_LEAST_TRANSFER_SHARE = 0.02


@dataclass(frozen=True, slots=True)
class Exchanges:
    """`count` exchanges that moved `size_bytes` in `seconds`, all together."""

    count: int
    size_bytes: float
    seconds: float

    @property
    def mean_bytes(self) -> float:
        """Bytes of one exchange."""
        return self.size_bytes / self.count

    @property
    def mean_seconds(self) -> float:
        """Seconds of one exchange."""
        return self.seconds / self.count

    def transfer_seconds(self, alpha_seconds: float) -> float:
        """Seconds beyond the fixed cost; never nothing, so that a throughput stays finite."""
        return max(self.seconds - self.count * alpha_seconds, _LEAST_TRANSFER_SHARE * self.seconds)


@dataclass(frozen=True, slots=True)
class Crossing:
    """Where one line has no bytes: its alpha, and how far that moves if either point is wrong by all of its seconds."""

    alpha_seconds: float
    doubt_seconds: float


@dataclass(frozen=True, slots=True)
class FixedCost:
    """What is known of one operation's alpha over one link class."""

    lines: tuple[Crossing, ...] = ()
    other_size: Exchanges | None = None
    """The windows before the size changed last, as one."""
    same_size: tuple[Exchanges, ...] = ()
    """The newest windows since."""

    @property
    def known(self) -> bool:
        """Whether sizes ever differed."""
        return bool(self.lines)

    @property
    def seconds(self) -> float:
        """What the surest of the newest lines agree on; 0 while there is none."""
        if not self.lines:
            return 0.0
        least = min(line.doubt_seconds for line in self.lines)
        return median(line.alpha_seconds for line in self.lines if line.doubt_seconds <= _AS_SURE * least)

    def seen(self, window: Window, exchanges: Exchanges) -> FixedCost:
        """Return what is known after one more window, whose sums are `exchanges`."""
        if self.lines and exchanges.mean_bytes < ONE_PACKET_BYTES:
            return self
        within = _within(window, exchanges)
        added = () if within is None else (within,)
        if self.same_size and _are_apart(self.same_size[-1], exchanges):
            other = _pooled(self.same_size)
            return FixedCost(
                (*self.lines, _through(other, exchanges), *added)[-_REMEMBERED_LINES:], other, (exchanges,)
            )
        same = (*self.same_size, exchanges)[-_POOLED_WINDOWS:]
        lines = self.lines
        if self.other_size is not None and within is None and len(self.same_size) < _POOLED_WINDOWS:
            lines = (*lines[:-1], _through(self.other_size, _pooled(same)))
        return FixedCost((*lines, *added)[-_REMEMBERED_LINES:], self.other_size, same)


def alpha_through(one: Exchanges, other: Exchanges) -> float | None:
    """Return the seconds at which a line through both has no bytes; None where their sizes are too near."""
    return _through(one, other).alpha_seconds if _are_apart(one, other) else None


def _are_apart(one: Exchanges, other: Exchanges) -> bool:
    small, large = sorted((one.mean_bytes, other.mean_bytes))
    return large >= SIZES_APART * small


def _pooled(some: Sequence[Exchanges]) -> Exchanges:
    return Exchanges(
        sum(one.count for one in some), sum(one.size_bytes for one in some), sum(one.seconds for one in some)
    )


def _through(one: Exchanges, other: Exchanges) -> Crossing:
    small, large = sorted((one, other), key=lambda exchanges: exchanges.mean_bytes)
    apart = large.mean_bytes - small.mean_bytes
    alpha = small.mean_seconds - (large.mean_seconds - small.mean_seconds) / apart * small.mean_bytes
    doubt = math.hypot(small.mean_seconds * large.mean_bytes, large.mean_seconds * small.mean_bytes) / apart
    return Crossing(max(0.0, min(alpha, small.mean_seconds, large.mean_seconds)), doubt)


def _within(window: Window, exchanges: Exchanges) -> Crossing | None:
    """Return the regression line of a window that holds several sizes."""
    variance = window.sum_bytes_squared / window.count - exchanges.mean_bytes**2
    if window.count < 2 or variance < (_SPREAD_WITHIN * exchanges.mean_bytes) ** 2:
        return None
    covariance = window.sum_bytes_seconds / window.count - exchanges.mean_bytes * exchanges.mean_seconds
    alpha = exchanges.mean_seconds - covariance / variance * exchanges.mean_bytes
    doubt = exchanges.mean_seconds * math.hypot(1.0, exchanges.mean_bytes / math.sqrt(variance))
    return Crossing(max(0.0, min(alpha, exchanges.mean_seconds)), doubt)
