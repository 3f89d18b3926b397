"""`bench.simulator` as the tests of the law call it: one function from a trace to what happened."""

from __future__ import annotations

import random
from collections.abc import Callable

from bench.simulator.job import LADDER, OFF_MILLIBITS, Delivery, Job, Link, even_traffic, jittered, limits
from thinwire.controller.policy.reports import Rung, Step

__all__ = ["LADDER", "OFF_MILLIBITS", "Job", "Link", "Trace", "fast_then_slow", "limits", "simulate"]

Trace = Callable[[int], Link]


def fast_then_slow(step: int) -> Link:
    return Link(50e6 if step >= 60 else 500e6, 2e-4)


def simulate(
    traces: dict[str, Trace] | Trace,
    *,
    steps: int = 200,
    compute_seconds: float = 0.25,
    first_millibits: int = OFF_MILLIBITS,
    noise: float = 0.0,
    seed: int = 0,
    delivery: Delivery | None = None,
    spoil: Callable[[Step], list[Step]] = lambda step: [step],
    error_at: Callable[[Rung], float] = lambda rung: 0.0,
    values: int = 1_500_000,
    **limit: int | bool,
) -> Job:
    """Run `steps` steps of a job whose windows are stretched by `noise` at most, its computing by a third of that."""
    chance = random.Random(seed)
    classes = traces if isinstance(traces, dict) else {"intra-node": traces}
    job = Job(
        tuple(classes),
        limits(**limit),
        first_millibits,
        even_traffic(values),
        delivery or Delivery(),
        spoil,
        error_at,
    )
    for at in range(steps):
        links = {name: trace(at) for name, trace in classes.items()}
        job.advance(links, compute_seconds * (1 + noise * chance.uniform(-0.3, 0.3)), jittered(chance, noise))
    return job
