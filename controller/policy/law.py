"""The law: the least lossy rung whose stall stays within its budget, otherwise the one with the shortest step.

Model-based choice on a discrete ladder with hysteresis. Down after `BAD_WINDOWS` bad windows in a row; up only when the
better rung fits with a margin for `GOOD_WINDOWS` windows, and after a dwell that doubles whenever an upward switch had
to be taken back. A window is bad if the fit, or the window alone, asks for fewer bits; the switch itself needs the fit.
Where no rung fits and fewer bits would gain little, bits are not given away for noise: that takes `DOUBTFUL_WINDOWS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from thinwire.controller.policy.forecast import Outlook
from thinwire.controller.policy.reports import Rung

BAD_WINDOWS = 2
DOUBTFUL_WINDOWS = 6
GOOD_WINDOWS = 3
MARGIN = 1.18
SHORTEST_DWELL_WINDOWS = 8
LONGEST_DWELL_WINDOWS = 128

_WORTH_A_SWITCH = 1.05
_BEYOND_DOUBT = 1.2
_OVER_BUDGET = 1.05
AS_SHORT = 1.02
_REGRET_WINDOWS = 64


class Move(StrEnum):
    """Why a rung was chosen."""

    HOLD = "hold"
    FIRST = "first"
    DOWN = "down"
    UP = "up"
    BARRED = "barred"


@dataclass(frozen=True, slots=True)
class Hysteresis:
    """What the law remembers of one link class between windows."""

    decided: bool = False
    bad_windows: int = 0
    good_windows: int = 0
    since_switch_windows: int = 0
    dwell_windows: int = SHORTEST_DWELL_WINDOWS
    last_move: Move = Move.HOLD


@dataclass(frozen=True, slots=True)
class Views:
    """The same rungs, least lossy first, priced by the fit, by the careful fit and by the last window alone."""

    plain: tuple[Outlook, ...]
    careful: tuple[Outlook, ...]
    latest: tuple[Outlook, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """What the law wants for one link class now."""

    rung: Rung
    move: Move


def choose(priced: Sequence[Outlook], budget_seconds: float, compute_seconds: float) -> Outlook:
    """The least lossy rung within the budget; otherwise the least lossy of those within 2 % of the shortest step."""
    for outlook in priced:
        if outlook.stall_seconds <= budget_seconds:
            return outlook
    shortest = compute_seconds + min(outlook.stall_seconds for outlook in priced)
    return next(outlook for outlook in priced if compute_seconds + outlook.stall_seconds <= AS_SHORT * shortest)


def consider(
    memory: Hysteresis,
    views: Views,
    current: Rung,
    *,
    budget_seconds: float,
    compute_seconds: float,
    frozen: bool,
) -> tuple[Hysteresis, Choice]:
    """One window's worth of thought. While `frozen` windows are counted, and nothing moves.

    `current` may be a rung that the views do not price: it is not allowed any more, and is left at once.
    """
    barred = all(outlook.rung != current for outlook in views.plain)
    memory = replace(memory, since_switch_windows=memory.since_switch_windows + 1)

    settings = (current, budget_seconds, compute_seconds)
    down = _lower(views.plain, *settings)
    if down is not None or _lower(views.latest, *settings) is not None:
        memory = replace(memory, bad_windows=memory.bad_windows + 1, good_windows=0)
    else:
        up = choose(views.careful, budget_seconds / MARGIN, compute_seconds)
        good = memory.good_windows + 1 if up.rung.loss < current.loss else 0
        memory = replace(memory, bad_windows=0, good_windows=good)
    if frozen:
        return memory, Choice(current, Move.HOLD)
    if barred:
        return _switched(memory, _wanted(views, budget_seconds, compute_seconds), Move.BARRED)
    if not memory.decided:
        return _switched(memory, _wanted(views, budget_seconds, compute_seconds), Move.FIRST)
    if down is not None and memory.bad_windows >= _patience(views.plain, down, *settings):
        return _switched(memory, _lower(views.careful, *settings) or down, Move.DOWN)
    if memory.good_windows >= GOOD_WINDOWS and memory.since_switch_windows > memory.dwell_windows:
        return _switched(memory, choose(views.careful, budget_seconds / MARGIN, compute_seconds), Move.UP)
    return memory, Choice(current, Move.HOLD)


def nearest(priced: Sequence[Outlook], millibits: int) -> Outlook:
    """The priced rung that comes closest to a rate."""
    return min(priced, key=lambda outlook: abs(outlook.rung.millibits - millibits))


def _wanted(views: Views, budget_seconds: float, compute_seconds: float) -> Outlook:
    """What fits the budget though the fit be wrong; if nothing does, the best by the fit itself."""
    careful = choose(views.careful, budget_seconds, compute_seconds)
    return careful if careful.stall_seconds <= budget_seconds else choose(views.plain, budget_seconds, compute_seconds)


def _lower(priced: Sequence[Outlook], current: Rung, budget_seconds: float, compute_seconds: float) -> Outlook | None:
    """A lossier rung that is worth leaving the current one for, or None."""
    wanted = choose(priced, budget_seconds, compute_seconds)
    if wanted.rung.loss <= current.loss:
        return None
    now = nearest(priced, current.millibits).stall_seconds
    if wanted.stall_seconds <= budget_seconds:
        return wanted if now > _OVER_BUDGET * budget_seconds else None
    return wanted if compute_seconds + now > _WORTH_A_SWITCH * (compute_seconds + wanted.stall_seconds) else None


def _patience(
    priced: Sequence[Outlook], down: Outlook, current: Rung, budget_seconds: float, compute_seconds: float
) -> int:
    """Bad windows in a row that a step down takes."""
    now = compute_seconds + nearest(priced, current.millibits).stall_seconds
    is_clear = down.stall_seconds <= budget_seconds or now > _BEYOND_DOUBT * (compute_seconds + down.stall_seconds)
    return BAD_WINDOWS if is_clear else DOUBTFUL_WINDOWS


def _switched(memory: Hysteresis, outlook: Outlook, move: Move) -> tuple[Hysteresis, Choice]:
    dwell = memory.dwell_windows
    if move is Move.DOWN and memory.last_move is Move.UP:
        regretted = memory.since_switch_windows <= _REGRET_WINDOWS
        dwell = min(2 * dwell, LONGEST_DWELL_WINDOWS) if regretted else max(dwell // 2, SHORTEST_DWELL_WINDOWS)
    return Hysteresis(decided=True, dwell_windows=dwell, last_move=move), Choice(outlook.rung, move)
