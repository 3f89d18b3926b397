"""Rates in millibits per value and the rungs that carry them, in this run's shapes.

A rate above which no codec is needed is "off": whole values at the model's own width. A rung has two figures: the bits
of its name, which a manifest speaks of, and what really travels with headers and scales, which the controller counts.
Both name it. With a calibrated model a transform rung is a budget: every (layer, role) gets a rate of its own.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from thinwire.compression import (
    CALIBRATED_LADDER,
    LADDER,
    RAW,
    Calibration,
    Demand,
    Place,
    Role,
    Rung,
    TransformRung,
    allocate,
)
from thinwire.runtime.exchange.traffic import Traffic
from thinwire.runtime.parallel import LinkClass

OFF_MILLIBITS = 16_000
"""From this rate on the exchange goes without codec, whatever the model's width."""

Allocations = Mapping[tuple[LinkClass, str], Mapping[Place, Rung]]
"""By link class and a rung's name: what codes each (layer, role) when that rung is commanded."""
TRANSFORMS = tuple(rung for rung in CALIBRATED_LADDER if isinstance(rung, TransformRung))
_STEP = 1.08
_FINEST, _COARSEST = TRANSFORMS[0].millibits, TRANSFORMS[-1].millibits
_STEPS = math.floor(math.log(_FINEST / _COARSEST, _STEP))
_BETWEEN = (TransformRung(round(_COARSEST * _STEP**step)) for step in range(_STEPS + 1))
SHARES = tuple(sorted({*TRANSFORMS, *_BETWEEN}, key=lambda rung: rung.millibits))
"""What a (layer, role) may be given of a budget: the budgets themselves, and every 8 % a rate between."""


@dataclass(frozen=True, slots=True)
class RateTable:
    """The choices of this run, from least to most loss, with what travels for one value; the first, None, is off."""

    choices: tuple[tuple[Rung | None, int], ...]
    allocations: Allocations = field(default_factory=dict)

    @classmethod
    def of(
        cls, traffic: Traffic, dtype: torch.dtype, calibration: Calibration | None = None, first_layer: int = 0
    ) -> "RateTable":
        """Price every rung in these flows. The raw rung is no choice: it costs more than off and says the same.

        calibration: of the model, which then has transform rungs too, unless nothing of attention travels: where they
        code nothing, they would only take the place of scalar ones of the same price. first_layer: which of its layers
        the first of these flows is, not 0 on PipeFusion's later stages. Choices are the same on every rank, and a
        budget is spread alike on ranks that exchange attention. No two choices cost the same, because a price names
        its rung: the less lossy one stays.
        """
        rungs = [rung for rung in LADDER if rung is not RAW]
        allocations: dict[tuple[LinkClass, str], Mapping[Place, Rung]] = {}
        if calibration is not None and traffic.attention_flows:
            rungs += TRANSFORMS
            for link_class in traffic.link_classes:
                demands = _demands(traffic, link_class, calibration, first_layer)
                for budget in TRANSFORMS:
                    allocations[link_class, budget.name] = allocate(budget.millibits, demands, SHARES)
        choices: dict[int, Rung | None] = {traffic.millibits(None, dtype): None}
        for rung in sorted(rungs, key=lambda rung: (rung.distortion, rung.millibits)):
            choices.setdefault(traffic.millibits(rung, dtype), rung)
        return cls(tuple((rung, price) for price, rung in choices.items()), allocations)

    def rung(self, millibits: int) -> Rung | None:
        """Return what carries a rate: the rung that costs exactly this, else the least lossy whose nominal bits fit.

        A rate below every rung gets the one with the fewest bits.
        """
        if millibits >= OFF_MILLIBITS:
            return None
        for rung, true_millibits in self.choices:
            if true_millibits == millibits:
                return rung
        coded = [rung for rung, _ in self.choices if rung is not None]
        least = min(coded, key=lambda rung: rung.millibits)
        fitting = [rung for rung in coded if rung.millibits <= millibits]
        return min(fitting, key=lambda rung: rung.distortion, default=least)

    def raised(self, rung: Rung | None, by: int) -> Rung | None:
        """Return the rung `by` places above, towards less loss; off at the top."""
        rungs = [choice for choice, _ in self.choices]
        return rungs[max(0, rungs.index(rung) - by)]

    def millibits(self, rung: Rung | None) -> int:
        """Return what travels for one value, headers and scales included."""
        return next(true_millibits for choice, true_millibits in self.choices if choice is rung)


def _demands(traffic: Traffic, link_class: LinkClass, calibration: Calibration, first_layer: int) -> Sequence[Demand]:
    """Return every (layer, role) of attention that travels over these links, with its values."""
    values: dict[Role, int] = {}
    for flow in traffic.attention_flows:
        if flow.link_class is link_class:
            values[flow.role] = values.get(flow.role, 0) + flow.values
    return [
        calibration.demand((layer, role), count, SHARES)
        for layer in range(first_layer, first_layer + traffic.layers)
        for role, count in values.items()
    ]
