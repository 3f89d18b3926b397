"""Rates in millibits per value and the rungs that carry them, in this run's shapes.

A rate above which no codec is needed is "off": whole values at the model's own width. A rung has two figures: the bits
of its name, which a manifest speaks of, and what really travels with headers and scales, which the controller counts.
Both name it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from thinwire.compression import LADDER, RAW, Rung, uniform_rung
from thinwire.runtime.exchange.traffic import Traffic

OFF_MILLIBITS = 16_000
"""From this rate on the exchange goes without codec, whatever the model's width."""


@dataclass(frozen=True, slots=True)
class RateTable:
    """The choices of this run, from most to least bits, with what travels for one value; the first, None, is off."""

    choices: tuple[tuple[Rung | None, int], ...]

    @classmethod
    def of(cls, traffic: Traffic, dtype: torch.dtype) -> "RateTable":
        """Price every rung in these flows. The raw rung is no choice: it costs more than off and says the same."""
        rungs: Sequence[Rung | None] = [None, *(rung for rung in LADDER if rung is not RAW)]
        return cls(tuple((rung, traffic.millibits(rung, dtype)) for rung in rungs))

    def rung(self, millibits: int) -> Rung | None:
        """Return what carries a rate: the rung that costs exactly this, else the finest whose nominal bits fit.

        A rate below every rung gets the coarsest.
        """
        if millibits >= OFF_MILLIBITS:
            return None
        for rung, true_millibits in self.choices:
            if true_millibits == millibits:
                return rung
        coded = [rung for rung, _ in self.choices if rung is not None]
        return uniform_rung(max(millibits, coded[-1].millibits), coded)

    def raised(self, rung: Rung | None, by: int) -> Rung | None:
        """Return the rung `by` places above, towards more bits; off at the top."""
        rungs = [choice for choice, _ in self.choices]
        return rungs[max(0, rungs.index(rung) - by)]

    def millibits(self, rung: Rung | None) -> int:
        """Return what travels for one value, headers and scales included."""
        return next(true_millibits for choice, true_millibits in self.choices if choice is rung)
