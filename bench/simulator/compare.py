"""A scenario run by the law, by the oracle and at fixed rungs, all with the same noise."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass

from bench.simulator.job import LADDER, OFF_MILLIBITS, STEPS_PER_PROMPT, Job, jittered, limits, price
from bench.simulator.oracle import best_rates
from bench.simulator.scenarios import Scenario

STALL_PERCENT = 15
NOISE = 0.1


@dataclass(frozen=True, slots=True)
class Outcome:
    """One seed of one scenario. Lists have one entry per step; rates by link class, in millibits per value."""

    seed: int
    law_rates: dict[str, list[int]]
    oracle_rates: dict[str, list[int]]
    law_seconds: list[float]
    oracle_seconds: list[float]
    fixed_seconds: dict[str, float]
    switches: list[dict[str, object]]
    drops_at: int | None

    @property
    def regret(self) -> float:
        """Seconds above the oracle's, of steps slower than its, over all of its; the first prompt left out."""
        pairs = list(zip(self.law_seconds, self.oracle_seconds, strict=True))[STEPS_PER_PROMPT:]
        return sum(max(0.0, law - oracle) for law, oracle in pairs) / sum(oracle for _, oracle in pairs)

    @property
    def step_time_ratio(self) -> float:
        """Seconds over the oracle's; below 1 where fewer bits were sent than the oracle's."""
        return sum(self.law_seconds[STEPS_PER_PROMPT:]) / sum(self.oracle_seconds[STEPS_PER_PROMPT:])

    @property
    def bits_given_away(self) -> float:
        """Bits below the oracle's, of steps that had fewer, over all of its; the first prompt left out."""
        pairs = [
            pair
            for name, rates in self.law_rates.items()
            for pair in list(zip(rates, self.oracle_rates[name], strict=True))[STEPS_PER_PROMPT:]
        ]
        return sum(max(0, oracle - law) for law, oracle in pairs) / sum(oracle for _, oracle in pairs)

    @property
    def switches_per_hundred_steps(self) -> float:
        """The first prompt left out."""
        later = [switch for switch in self.switches if int(str(switch["step"])) >= STEPS_PER_PROMPT]
        return 100 * len(later) / (len(self.law_seconds) - STEPS_PER_PROMPT)

    @property
    def steps_to_adapt(self) -> int | None:
        """Steps from the drop until a lower rate was in force; None if there was no drop, or no answer."""
        if self.drops_at is None:
            return None
        lower = [
            int(str(switch["step"]))
            for switch in self.switches
            if int(str(switch["step"])) >= self.drops_at
            and int(str(switch["to_millibits"])) < int(str(switch["from_millibits"]))
        ]
        return lower[0] - self.drops_at if lower else None


def compare(scenario: Scenario, seed: int, noise: float = NOISE) -> Outcome:
    """Run one scenario with one seed."""
    chance = random.Random(seed)  # noqa: S311
    delivery = scenario.delivery(random.Random(seed + 1000).random)  # noqa: S311
    job = Job(tuple(scenario.traces), limits(target_stall_percent=STALL_PERCENT), traffic=scenario.traffic)
    job.delivery = delivery
    oracle_rates: list[dict[str, int]] = []
    oracle_seconds: list[float] = []
    fixed_seconds = {rung.name: 0.0 for rung in LADDER if rung.name != "raw"}
    for at in range(scenario.steps):
        links = {name: trace(at) for name, trace in scenario.traces.items()}
        # One draw for everybody: the oracle and the fixed rungs meet the very links that the law met.
        stretches = [jittered(chance, noise)() for _ in range(len(links) * len(scenario.traffic))]
        compute = scenario.computing(at) * jittered(chance, noise * 0.3)()

        def seconds_at(rates: dict[str, int]) -> float:
            drawn = iter(stretches)  # noqa: B023 - called within this turn
            return compute + price(rates, links, scenario.traffic, lambda: next(drawn)).seconds  # noqa: B023

        is_warm_up = at % STEPS_PER_PROMPT < job.limits.warmup_steps
        best = best_rates(links, scenario.traffic, compute, STALL_PERCENT / 100)
        whole = dict.fromkeys(links, OFF_MILLIBITS)
        oracle_rates.append(best)
        oracle_seconds.append(seconds_at(whole if is_warm_up else best))
        for rung in LADDER:
            if rung.name in fixed_seconds:
                rates = dict.fromkeys(links, rung.millibits)
                fixed_seconds[rung.name] += seconds_at(whole if is_warm_up else rates)
        drawn = iter(stretches)
        job.advance(links, compute, lambda drawn=drawn: next(drawn))  # type: ignore[misc]
    return Outcome(
        seed,
        {name: [rates[name] for rates in job.rates] for name in scenario.traces},
        {name: [rates[name] for rates in oracle_rates] for name in scenario.traces},
        job.step_seconds,
        oracle_seconds,
        fixed_seconds,
        [asdict(switch) for switch in job.switches],
        scenario.drops_at,
    )
