"""Which runs there are, in which order, at which bandwidths, and about how long each takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.sweep.variants import ADAPTIVE, OFF, Kind, Variant

FAST_RATIO = 0.05
"""A link on which compression cannot help: only adaptive and off run there."""
RATIOS = (18.0, 0.5, 5.0, 1.0, 10.0, 2.0, FAST_RATIO)
"""Communication over computing time of the uncompressed ring; the paper's FLUX at 0.5 GB/s is about 18."""
SHORT_FROM_RATIO = 5.0
SHORT_STEPS = 6

_START_SECONDS = 5.5
_LONGEST_SESSION_SECONDS = 60.0
_BITS = {
    "transform-500": 0.55,
    "transform-600": 0.65,
    "transform-750": 0.8,
    "transform-1000": 1.05,
    "transform-2000": 2.1,
    "bits1": 1.2,
    "bits2": 2.2,
    "cf-1bit": 1.3,
    "cf-2bit": 2.4,
    "cf-lowrank32": 0.7,
}
_PIPEFUSION_SHARE = 0.085
_USUAL_BITS = 4.0
_WHOLE_BITS = 16.0
_IN_TURN = 1.6
"""Upstream's collectives over gloo run the two directions of a link partly one after the other (runtime wire)."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What the ratios rest on, measured at the start over links without limit: one rank's step of the uncompressed
    ring.
    """

    compute_seconds: float
    bytes_per_step: float

    def bits_per_second(self, ratio: float) -> int:
        """Return the bandwidth at which the uncompressed step's bytes take `ratio` times as long as its computing."""
        return round(8 * self.bytes_per_step / (ratio * self.compute_seconds))


@dataclass(frozen=True, slots=True)
class Planned:
    """One run. `turn` also says which prompt and seed; ratio 0 is no link at all."""

    variant: Variant
    ratio: float
    turn: int

    def made_steps(self, whole: int) -> int:
        """Return how many of a picture's steps are made.

        Whole values over a thin link take the same time in every step and do not depend on the link: a few steps tell
        the seconds, the picture of the same prompt at another ratio the fidelity.
        """
        variant = self.variant
        is_short = self.ratio >= SHORT_FROM_RATIO and not variant.is_coded and variant.pipefusion == 1
        return min(SHORT_STEPS, whole) if is_short else whole


def planned_runs(variants: Sequence[Variant], ratios: Iterable[float], turns: Iterable[int]) -> list[Planned]:
    """Return all runs, turn by turn, so that whatever has run when time is up is interleaved. In a turn those stand
    together that the same ranks can make; every other turn goes the other way round.
    """
    levels = list(ratios)
    groups: dict[object, list[Variant]] = {}
    for variant in variants:
        if variant.kind is not Kind.ONE_PROCESS:
            groups.setdefault(variant.session or variant, []).append(variant)
    runs = []
    for turn in turns:
        runs += [Planned(variant, 0.0, turn) for variant in variants if variant.kind is Kind.ONE_PROCESS]
        in_order = list(groups.values()) if turn % 2 == 0 else [group[::-1] for group in groups.values()][::-1]
        for group in in_order:
            for ratio in levels:
                some = [variant for variant in group if ratio != FAST_RATIO or variant in (ADAPTIVE, OFF)]
                runs += [Planned(variant, ratio, turn) for variant in some]
    return runs


def in_sessions(runs: Sequence[Planned], layout: Layout, steps: int) -> list[list[Planned]]:
    """Return the same runs in the same order, those together that the same ranks make one after the other: not so many
    that much is lost when the sweep is stopped.
    """
    sessions: list[list[Planned]] = []
    for run in runs:
        last = sessions[-1] if sessions else []
        is_shared = last and run.variant.session and _shared(last[-1]) == _shared(run)
        if is_shared and expected_seconds([*last, run], layout, steps) <= _LONGEST_SESSION_SECONDS:
            last.append(run)
        else:
            sessions.append([run])
    return sessions


def expected_seconds(session: Sequence[Planned], layout: Layout, steps: int) -> float:
    """Return about how long the runs of one session take."""
    return _START_SECONDS + sum(_picture_seconds(run, layout, steps) for run in session)


def _shared(run: Planned) -> tuple[object, ...]:
    return (run.turn, run.variant.session)


def _picture_seconds(run: Planned, layout: Layout, steps: int) -> float:
    variant = run.variant
    if variant.kind is Kind.ONE_PROCESS:
        return 2 * steps * layout.compute_seconds
    whole = run.ratio * layout.compute_seconds
    made = run.made_steps(steps)
    if variant.pipefusion > 1:
        return made * layout.compute_seconds * 1.2 + made * whole * _PIPEFUSION_SHARE
    if variant.is_coded:
        bits = _BITS.get(variant.rung, _USUAL_BITS if variant.rung else 1.0)
        picture = made * (1.3 * layout.compute_seconds + whole * bits / _WHOLE_BITS) + whole
        cold = 5 * whole if variant.adaptive else 0.0
        return variant.pictures * picture + cold
    in_turn = _IN_TURN if variant.kind is Kind.UPSTREAM else 1.0
    return made * (layout.compute_seconds + whole * in_turn)
