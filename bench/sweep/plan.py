"""Which runs there are, in which order, at which bandwidths, and about how long each takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.sweep.variants import Kind, Variant

RATIOS = (18.0, 0.5, 2.0, 5.0, 10.0, 1.0, 20.0)
"""Communication over computing time of the uncompressed ring; the paper's FLUX at 0.5 GB/s is about 18."""

ESSENTIAL = ("thinwire adaptive", "cf-1bit", "thinwire bits1", "thinwire transform-500", "thinwire off", "xfuser ring")

_START_SECONDS = 4.0
_BITS = {"transform-250": 0.3, "transform-500": 0.55, "bits1": 1.2, "transform-1000": 1.05, "cf-1bit": 1.3}
_PIPEFUSION_SHARE = 0.2
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


def planned_runs(variants: Sequence[Variant], ratios: Iterable[float], turns: Iterable[int]) -> list[Planned]:
    """Return all runs, turn by turn, so that whatever has run when time is up is interleaved; in every turn first at
    every ratio what the asked figures rest on, then the rest.
    """
    levels = list(ratios)
    linked = [variant for variant in variants if variant.kind is not Kind.ONE_PROCESS]
    first = [variant for variant in linked if variant.name in ESSENTIAL]
    rest = [variant for variant in linked if variant.name not in ESSENTIAL]
    runs = []
    for turn in turns:
        runs += [Planned(variant, 0.0, turn) for variant in variants if variant.kind is Kind.ONE_PROCESS]
        for some in (first, rest):
            ordered = some if turn % 2 == 0 else some[::-1]
            runs += [Planned(variant, ratio, turn) for ratio in levels for variant in ordered]
    return runs


def expected_seconds(run: Planned, layout: Layout, steps: int) -> float:
    """Return about how long a run takes."""
    variant = run.variant
    if variant.kind is Kind.ONE_PROCESS:
        return _START_SECONDS + 2 * steps * layout.compute_seconds
    whole = run.ratio * layout.compute_seconds * (_PIPEFUSION_SHARE if variant.pipefusion > 1 else 1.0)
    if variant.is_coded:
        bits = _BITS.get(variant.rung, _USUAL_BITS if variant.rung else 1.0)
        picture = steps * (1.3 * layout.compute_seconds + whole * bits / _WHOLE_BITS) + whole
        cold = 5 * whole if variant.adaptive else 0.0
        return _START_SECONDS + variant.pictures * picture + cold
    return _START_SECONDS + (steps + 2) * (
        layout.compute_seconds + whole * (_IN_TURN if variant.kind is Kind.UPSTREAM else 1.0)
    )
