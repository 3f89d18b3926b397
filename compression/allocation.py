"""Bits where they matter: a budget in millibits per value becomes one rung per (layer, role).

The predicted error is the sum of values x sensitivity x distortion(rung). Its least value for a budget is found on the
lower convex hull of the ladder by taking the steep steps first (Shoham and Gersho 1988), which is exact at every
budget that the hull reaches and at most one step short of it between them.
"""

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

from thinwire.compression.errors import RungError
from thinwire.compression.ladder import LADDER
from thinwire.compression.rungs.base import Rung
from thinwire.compression.streams import Role

Place = tuple[int, Role]


@dataclass(frozen=True, slots=True)
class Demand:
    """One (layer, role): its values per step and what a unit of error on it costs, on any common scale.

    distortions: what each rung leaves of this place's own energy, in the unit that the sensitivity refers to; without
    it every place has the rungs' usual relative errors. Raises ValueError unless values > 0 and sensitivity is finite
    and not negative.
    """

    layer: int
    role: Role
    values: int
    sensitivity: float = 1.0
    distortions: Mapping[Rung, float] | None = None

    def __post_init__(self) -> None:
        if self.values <= 0:
            raise ValueError(f"values of layer {self.layer}, {self.role.name}: expected at least 1, got {self.values}")
        if not 0 <= self.sensitivity < float("inf"):
            raise ValueError(
                f"sensitivity of layer {self.layer}, {self.role.name}: expected 0 or more, got {self.sensitivity}"
            )

    @property
    def place(self) -> Place:
        """The key in an allocation."""
        return (self.layer, self.role)

    def distortion(self, rung: Rung) -> float:
        """Return what the rung leaves here; raises KeyError for one that `distortions` does not know."""
        return rung.distortion if self.distortions is None else self.distortions[rung]


def _ascending(ladder: Iterable[Rung]) -> list[Rung]:
    return sorted(ladder, key=lambda rung: (rung.millibits, rung.distortion))


def _require_affordable(budget_millibits: int, rungs: Sequence[Rung]) -> None:
    if not rungs:
        raise RungError("ladder: expected at least one rung, got none")
    if budget_millibits < rungs[0].millibits:
        raise RungError(
            f"budget (millibits): expected at least {rungs[0].millibits} ({rungs[0].name}), got {budget_millibits}"
        )


def uniform_rung(budget_millibits: int, ladder: Iterable[Rung] = LADDER) -> Rung:
    """Return the finest rung within the budget; raises RungError if the coarsest is beyond it."""
    rungs = _ascending(ladder)
    _require_affordable(budget_millibits, rungs)
    return [rung for rung in rungs if rung.millibits <= budget_millibits][-1]


def spread(budget_millibits: int, demands: Sequence[Demand], ladder: Iterable[Rung] = LADDER) -> dict[Place, Rung]:
    """Meet a fractional budget without sensitivities: two neighbouring rungs, evenly mixed in the order given.

    The mean over all values so far never exceeds the budget. Raises RungError as `uniform_rung` does.
    """
    rungs = _ascending(ladder)
    low = uniform_rung(budget_millibits, rungs)
    finer = [rung for rung in rungs if rung.millibits > low.millibits]
    high = finer[0] if finer else low
    allocation = {}
    saved = 0
    for demand in demands:
        saved += (budget_millibits - low.millibits) * demand.values
        price = (high.millibits - low.millibits) * demand.values
        allocation[demand.place] = high if high is not low and saved >= price else low
        if allocation[demand.place] is high and high is not low:
            saved -= price
    return allocation


def hull(ladder: Iterable[Rung], distortion: Callable[[Rung], float] = attrgetter("distortion")) -> list[Rung]:
    """Return the rungs on the lower convex hull of (millibits, distortion), coarsest first."""
    kept: list[Rung] = []
    for rung in _ascending(ladder):
        if kept and distortion(rung) >= distortion(kept[-1]):
            continue
        while len(kept) >= 2 and _gain(kept[-2], kept[-1], distortion) <= _gain(kept[-1], rung, distortion):
            kept.pop()
        kept.append(rung)
    return kept


def _gain(low: Rung, high: Rung, distortion: Callable[[Rung], float]) -> float:
    """Distortion saved per millibit on the way from `low` to `high`."""
    return (distortion(low) - distortion(high)) / (high.millibits - low.millibits)


def allocate(budget_millibits: int, demands: Sequence[Demand], ladder: Iterable[Rung] = LADDER) -> dict[Place, Rung]:
    """Assign rungs so that the predicted error is least and the mean rate is within the budget.

    Deterministic: ties go to the demand given first. Raises RungError if the budget is below the coarsest rung and
    ValueError for two demands of one place.
    """
    rungs = _ascending(ladder)
    _require_affordable(budget_millibits, rungs)
    if len({demand.place for demand in demands}) != len(demands):
        raise ValueError("demands: expected one for each (layer, role), got some twice")
    hulls = [hull(rungs, demand.distortion) for demand in demands]
    left = sum(
        (budget_millibits - choices[0].millibits) * demand.values
        for demand, choices in zip(demands, hulls, strict=True)
    )
    chosen = [0] * len(demands)

    def step(index: int) -> tuple[float, int]:
        demand, low, high = demands[index], *hulls[index][chosen[index] : chosen[index] + 2]
        return (-demand.sensitivity * _gain(low, high, demand.distortion), index)

    steps = [step(index) for index, choices in enumerate(hulls) if len(choices) > 1]
    heapq.heapify(steps)
    while steps:
        _, index = heapq.heappop(steps)
        choices, at = hulls[index], chosen[index]
        price = (choices[at + 1].millibits - choices[at].millibits) * demands[index].values
        if price > left:
            continue
        left -= price
        chosen[index] = at + 1
        if at + 2 < len(choices):
            heapq.heappush(steps, step(index))
    return {demand.place: choices[at] for demand, choices, at in zip(demands, hulls, chosen, strict=True)}


def predicted_error(allocation: Mapping[Place, Rung], demands: Iterable[Demand]) -> float:
    """Return what `allocate` minimises."""
    return sum(demand.values * demand.sensitivity * demand.distortion(allocation[demand.place]) for demand in demands)


def mean_millibits(allocation: Mapping[Place, Rung], demands: Sequence[Demand]) -> float:
    """Return the nominal rate of an allocation, weighted by values; 0 without demands."""
    values = sum(demand.values for demand in demands)
    spent = sum(demand.values * allocation[demand.place].millibits for demand in demands)
    return spent / values if values else 0.0
