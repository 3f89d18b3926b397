"""What a link carries, fitted from windows: an exchange of b bytes takes t = alpha + b / beta.

At one rate all exchanges of an operation have one size, so a window alone cannot tell alpha from beta. These rules part
them:

- alpha comes from size changes: a key frame beside coded steps, a new rate, a window of several sizes (fixed_cost.py).
  Until there is one, the line through two operations of the same step stands in (`introduced`).
- beta follows at once. With variance proportional to size the weighted least squares slope is the ratio of sums, which
  is the byte-weighted harmonic mean of the windows' throughputs; weights fall by `DECAY` per window. Two windows in a
  row that the fit misses by more than `SURPRISE` in one direction mean another link: what was before is dropped.
- nothing is carried faster than the link carries it: bytes over seconds, alpha and all, is a floor under beta, and a
  window that shows a higher floor is believed at once. So is a whole frame that takes hardly longer than the small one
  before it: key frames show a recovery that small frames cannot.
- frames that take mostly alpha (app-limited) say nothing of beta: they move alpha and never lower beta (BBR's rule).
  They do when they take twice as long as alpha lets expect, small ones when they take over three times as long: the
  smaller the frame, the likelier it is that a busy machine is to blame, and the next key frame tells. Small frames that
  take up to three times alpha to transfer move alpha as well, while they stay within twice or half of the fit.
- where a window has just shown a slower link, such frames confirm it when they fit it better than the fit.
- frames that are faster than the fit, and no faster than the link as it was known, may have had less to wait for or a
  faster link: alpha and beta share the gain.
- a frame of one packet goes through on credit that an idle link gathers (a token bucket, a queue), or waits longer
  for a processor than for the link: where larger ones were seen, it moves neither alpha nor beta.
- an exchange that took less than a thirtieth of the fixed cost is a clock's jump unless the next window says the same.

`careful` divides beta by one plus the largest recent relative error of prediction (RobustMPC, Yin et al. 2015).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import median

from thinwire.controller.policy.fixed_cost import ONE_PACKET_BYTES, SIZES_APART, Exchanges, FixedCost, alpha_through
from thinwire.controller.policy.reports import Window

DECAY = 0.7
SURPRISE = 1.5
AGREEMENT = 1.25

_REMEMBERED_WINDOWS = 8
_REMEMBERED_ERRORS = 5
_ALPHA_GAIN = 0.2
_LENT_GAIN = 0.3
_TELLING_SHARE = 0.5
_SMALL = 6.0
_SMALL_FRAMES_EXCESS = 2.5
_SMALL_FRAMES_SHARE = 3.0
_SMALL_FRAMES_NOISE = 2.0
_FASTER_THAN_FIXED_COST = 0.03
_TELLING = 1.3
_UNMEASURED_ALPHA = 0.5
_UNMEASURED_ALPHA_LATELY = 0.1


@dataclass(frozen=True, slots=True)
class Line:
    """t = alpha + bytes / beta."""

    alpha_seconds: float
    bytes_per_second: float


@dataclass(frozen=True, slots=True)
class LinkEstimate:
    """What is known of one operation over one link class. Made by `observe`, never by hand."""

    alpha_seconds: float = 0.0
    shown_alpha_seconds: float = 0.0
    fixed_cost: FixedCost = FixedCost()  # noqa: RUF009 - frozen, so sharing it is safe
    recent: tuple[Exchanges, ...] = ()
    errors: tuple[float, ...] = ()
    suspect: Exchanges | None = None
    largest_bytes: float = 0.0
    latest: Exchanges | None = None
    latest_is_app_limited: bool = False
    fastest_seconds: float = math.inf
    windows: int = 0
    was_too_fast: bool = False

    @property
    def known(self) -> bool:
        """Whether any window was taken in."""
        return bool(self.recent)

    @property
    def bytes_per_second(self) -> float:
        """Beta; 0 while nothing is known."""
        return self._beta(self.alpha_seconds)

    @property
    def plain(self) -> Line:
        """The fit itself."""
        return Line(self.alpha_seconds, self.bytes_per_second)

    @property
    def careful(self) -> Line:
        """The fit as a decision should take it: beta less its error, and some alpha where none was measured."""
        alpha = self.alpha_seconds
        if not self.fixed_cost.known and self.recent:
            least = min(
                self.fastest_seconds * _UNMEASURED_ALPHA, self.recent[-1].mean_seconds * _UNMEASURED_ALPHA_LATELY
            )
            alpha = max(alpha, least)
        beta = self._beta(alpha)
        if self.suspect is not None:
            beta = min(beta, self.suspect.size_bytes / self.suspect.transfer_seconds(alpha))
        if self.latest is not None and self.fixed_cost.known and alpha > SURPRISE * self.shown_alpha_seconds:
            # Small frames have slowed down since sizes last differed: alpha may be to blame, and beta as well.
            beta = min(beta, self.latest.size_bytes / self.latest.transfer_seconds(self.shown_alpha_seconds))
        return Line(alpha, beta / (1.0 + max(self.errors, default=0.0)))

    @property
    def lately(self) -> Line:
        """The line if the last window told the whole truth; an app-limited window cannot lower beta."""
        if self.latest is None or self.latest_is_app_limited:
            return self.plain
        return Line(self.alpha_seconds, self.latest.size_bytes / self.latest.transfer_seconds(self.alpha_seconds))

    def _beta(self, alpha_seconds: float) -> float:
        size = seconds = 0.0
        for age, exchanges in enumerate(reversed(self.recent)):
            weight = DECAY**age
            size += weight * exchanges.size_bytes
            seconds += weight * exchanges.transfer_seconds(alpha_seconds)
        return size / seconds if seconds else 0.0


def observe(estimate: LinkEstimate, window: Window) -> LinkEstimate:
    """The estimate after one more window, which must have passed `refusal_of_window`."""
    exchanges = Exchanges(window.count, window.sum_bytes, window.sum_seconds)
    too_fast = estimate.fixed_cost.known and exchanges.mean_seconds < _FASTER_THAN_FIXED_COST * estimate.alpha_seconds
    if too_fast and not estimate.was_too_fast:
        return replace(estimate, was_too_fast=True)
    seen = replace(
        _with_fixed_cost(estimate, estimate.fixed_cost.seen(window, exchanges)),
        was_too_fast=False,
        latest=exchanges,
        latest_is_app_limited=False,
        largest_bytes=max(estimate.largest_bytes, exchanges.mean_bytes),
        fastest_seconds=min(estimate.fastest_seconds, exchanges.mean_seconds),
        windows=estimate.windows + 1,
    )
    if seen.known and exchanges.mean_bytes < ONE_PACKET_BYTES < seen.largest_bytes / SIZES_APART:
        return replace(seen, latest_is_app_limited=True)
    if not seen.known:
        return replace(seen, recent=(exchanges,))
    if _shows_faster_link(estimate.latest, exchanges, seen.bytes_per_second):
        alpha = seen.alpha_seconds
        if exchanges.mean_seconds <= alpha:  # so it is too long, and what is left of it tells nothing
            alpha *= _sped_up(seen, (exchanges,))
        return replace(seen, alpha_seconds=alpha, recent=(exchanges,), errors=(), suspect=None)
    expected = exchanges.size_bytes / seen.bytes_per_second
    fixed = exchanges.count * seen.alpha_seconds
    if _confirms(seen, exchanges, fixed, expected):
        return _surprised(seen, exchanges, slower=True)
    measured = exchanges.transfer_seconds(seen.alpha_seconds)
    if _is_app_limited(seen, exchanges, fixed, expected):
        return replace(_drift(seen, exchanges, expected), latest_is_app_limited=True)
    if max(measured / expected, expected / measured) > SURPRISE:
        return _surprised(seen, exchanges, slower=measured > expected)
    error = abs(fixed + expected - exchanges.seconds) / exchanges.seconds
    return replace(
        seen,
        recent=(*seen.recent, exchanges)[-_REMEMBERED_WINDOWS:],
        errors=(*seen.errors, error)[-_REMEMBERED_ERRORS:],
        suspect=None,
    )


def introduced(estimates: Sequence[LinkEstimate]) -> tuple[LinkEstimate, ...]:
    """Let operations of one link class, observed in the same step, lend each other an alpha while they have none."""
    latest = [estimate.latest for estimate in estimates if estimate.latest is not None]
    found = [alpha for one, other in combinations(latest, 2) if (alpha := alpha_through(one, other)) is not None]
    if not found:
        return tuple(estimates)
    lent = median(found)

    def lend(estimate: LinkEstimate) -> LinkEstimate:
        if estimate.fixed_cost.known or not estimate.known:
            return estimate
        known = estimate.alpha_seconds
        return replace(estimate, alpha_seconds=known + _LENT_GAIN * (lent - known) if estimate.windows > 1 else lent)

    return tuple(map(lend, estimates))


def _shows_faster_link(before: Exchanges | None, exchanges: Exchanges, bytes_per_second: float) -> bool:
    if exchanges.size_bytes / exchanges.seconds > SURPRISE * bytes_per_second:
        return True
    if before is None or exchanges.mean_bytes < SIZES_APART * before.mean_bytes:
        return False
    expected = (exchanges.mean_bytes - before.mean_bytes) / bytes_per_second
    is_telling = expected > _TELLING_SHARE * before.mean_seconds
    return is_telling and expected > SURPRISE * (exchanges.mean_seconds - before.mean_seconds)


def _with_fixed_cost(estimate: LinkEstimate, now: FixedCost) -> LinkEstimate:
    """Alpha is what new lines say; until there are some it may drift."""
    if now.lines == estimate.fixed_cost.lines:
        return replace(estimate, fixed_cost=now)
    return replace(estimate, fixed_cost=now, alpha_seconds=now.seconds, shown_alpha_seconds=now.seconds)


def _is_app_limited(estimate: LinkEstimate, exchanges: Exchanges, fixed: float, expected: float) -> bool:
    """Whether exchanges are so much fixed cost, as the fit has it, that they tell nothing of beta."""
    is_small = exchanges.mean_bytes * _SMALL < estimate.largest_bytes
    measured = exchanges.transfer_seconds(estimate.alpha_seconds)
    if expected < fixed and measured < fixed * (_SMALL_FRAMES_EXCESS if is_small else 1.0):
        return True
    is_near = 1 / _SMALL_FRAMES_NOISE < exchanges.seconds / (fixed + expected) < _SMALL_FRAMES_NOISE
    return is_small and is_near and estimate.fixed_cost.known and expected < _SMALL_FRAMES_SHARE * fixed


def _drift(estimate: LinkEstimate, exchanges: Exchanges, expected_transfer_seconds: float) -> LinkEstimate:
    fixed = max(0.0, (exchanges.seconds - expected_transfer_seconds) / exchanges.count)
    return replace(estimate, alpha_seconds=estimate.alpha_seconds + _ALPHA_GAIN * (fixed - estimate.alpha_seconds))


def _confirms(estimate: LinkEstimate, exchanges: Exchanges, fixed: float, expected: float) -> bool:
    """Whether exchanges, mostly fixed cost perhaps, fit the slower link of the window before and not the fit."""
    if estimate.suspect is None:
        return False
    alpha = estimate.alpha_seconds
    slower = exchanges.size_bytes * estimate.suspect.transfer_seconds(alpha) / estimate.suspect.size_bytes
    return fixed + slower > _TELLING * (fixed + expected) and exchanges.seconds > fixed + (slower + expected) / 2


def _surprised(estimate: LinkEstimate, exchanges: Exchanges, *, slower: bool) -> LinkEstimate:
    suspect = estimate.suspect
    if suspect is None:
        return replace(estimate, suspect=exchanges)
    alpha = estimate.alpha_seconds
    before = suspect.size_bytes / suspect.transfer_seconds(alpha)
    if (before < estimate.bytes_per_second) is not slower:
        return replace(estimate, suspect=exchanges)
    now = exchanges.size_bytes / exchanges.transfer_seconds(alpha)
    shown = (suspect, exchanges) if max(before / now, now / before) < AGREEMENT else (exchanges,)
    if not slower:
        alpha *= _sped_up(estimate, shown)
    return replace(estimate, alpha_seconds=alpha, recent=shown, errors=(), suspect=None)


def _sped_up(estimate: LinkEstimate, shown: Sequence[Exchanges]) -> float:
    """By what part of the time that the fit expects exchanges were over; 1 at most.

    Nothing tells whether it was the fixed cost or the transfer that took less: both are believed to have taken this
    part of it. All of it taken off the transfer would make a link of any speed out of a busy moment that is over.
    """
    expected = sum(one.count * estimate.alpha_seconds + one.size_bytes / estimate.bytes_per_second for one in shown)
    return min(1.0, sum(one.seconds for one in shown) / expected)
