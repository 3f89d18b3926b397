"""What the rungs of this run cost: each is timed once, at the start, on the shape that most values travel in."""

from itertools import pairwise

import torch

from thinwire.compression import LADDER, Kernel, Rung, RungCost, TransformRung, measure_ladder
from thinwire.runtime.exchange.bases import Bases
from thinwire.runtime.exchange.floors import ATTENTION
from thinwire.runtime.exchange.rates import TRANSFORMS, RateTable
from thinwire.runtime.exchange.traffic import Traffic
from thinwire.runtime.facts import RungFacts

_TIMED = (TRANSFORMS[0], TRANSFORMS[len(TRANSFORMS) // 2], TRANSFORMS[-1])


def measured_costs(traffic: Traffic, dtype: torch.dtype, kernel: Kernel, bases: Bases | None) -> list[RungCost]:
    """Time every rung on the shape that most values travel in; of the transform rungs three, and between them lines."""
    if not traffic.flows:
        return []
    flow = max(traffic.flows, key=lambda flow: flow.values)
    ladder: tuple[Rung, ...] = LADDER
    basis = None
    if bases is not None and flow.exchange in ATTENTION:
        basis = bases.example(flow.role)
        ladder = (*LADDER, *_TIMED)
    costs = list(measure_ladder(kernel, flow.rows, flow.channels, dtype, ladder=ladder, basis=basis))
    return costs if basis is None else [*costs, *_between(costs)]


def _between(costs: list[RungCost]) -> list[RungCost]:
    """Costs of the transform rungs that were not timed, from their timed neighbours."""
    timed = sorted((cost for cost in costs if isinstance(cost.rung, TransformRung)), key=lambda c: c.rung.millibits)
    made = []
    for rung in TRANSFORMS:
        for low, high in pairwise(timed):
            if low.rung.millibits < rung.millibits < high.rung.millibits:
                share = (rung.millibits - low.rung.millibits) / (high.rung.millibits - low.rung.millibits)
                seconds = (
                    (1 - share) * before + share * after
                    for before, after in (
                        (low.encode_seconds_per_value, high.encode_seconds_per_value),
                        (low.decode_seconds_per_value, high.decode_seconds_per_value),
                    )
                )
                made.append(RungCost(rung, rung.millibits, *seconds))
    return made


def ladder_of(costs: list[RungCost], table: RateTable) -> tuple[RungFacts, ...]:
    """Return a run's choices with what was timed of each, from least to most loss; a rung without cost is left out."""
    by_rung = {cost.rung: cost for cost in costs}
    ladder = []
    for rung, millibits in table.choices:
        cost = None if rung is None else by_rung.get(rung)
        if rung is None:
            ladder.append(RungFacts("off", millibits, 0.0, 0.0, 0.0))
        elif cost is not None:
            encode, decode = cost.encode_seconds_per_value, cost.decode_seconds_per_value
            ladder.append(RungFacts(rung.name, millibits, encode, decode, rung.distortion))
    return tuple(ladder)
