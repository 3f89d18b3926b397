"""Many jobs behind one uplink: whoever sends shares it evenly, so every job's rate is part of every other job's link.

A fluid model in the virtual time of fair queueing: each sender gets capacity / senders; virtual time advances by the
bytes that one sender gets, and a transfer of b bytes that begins at virtual time v ends at v + b. After its step a job
computes again. Jobs differ in computing time, so that they do not march in step.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

from bench.simulator.job import LADDER, STEPS_PER_PROMPT, Job, Priced, even_traffic, jittered, limits, rung_at
from bench.simulator.job import timed_window as window
from thinwire.controller.policy.reports import Rung

_TRAFFIC = even_traffic(1_500_000)
_LATENCY_SECONDS = 2e-4
_LINK_CLASS = "inter-node"
_SPREAD = 0.4
_NOISE = 0.05


@dataclass(frozen=True, slots=True)
class Shared:
    """Mean step seconds of all jobs after the first prompt; `rates`, `switches`: mean by step, millibits and count."""

    mean_step_seconds: float
    mean_compute_seconds: float
    rates: list[float]
    switches: list[float]


def share(
    jobs: int, steps: int, bytes_per_second: float, *, fixed: Rung | None = None, told: Callable[[int], None]
) -> Shared:
    """Run all jobs for `steps` steps each, adaptive or all at one rung; `told` hears of every finished step."""
    chance = random.Random(0)  # noqa: S311
    made = [_job(fixed) for _ in range(jobs)]
    computing = [0.25 * jittered(chance, _SPREAD)() for _ in range(jobs)]
    now = virtual = 0.0
    starts = [(chance.uniform(0, 0.5), number) for number in range(jobs)]
    heapq.heapify(starts)
    sending: list[tuple[float, int, float]] = []
    finished = 0
    while starts or sending:
        ends_at = now + (sending[0][0] - virtual) * len(sending) / bytes_per_second if sending else float("inf")
        if starts and starts[0][0] <= ends_at:
            at, number = heapq.heappop(starts)
            virtual += (at - now) * bytes_per_second / len(sending) if sending else 0.0
            now = at
            heapq.heappush(sending, (virtual + _size(made[number].begin_step()), number, now))
            continue
        now = ends_at
        virtual, number, began = heapq.heappop(sending)
        job = made[number]
        job.end_step(_priced(job, now - began, jittered(chance, _NOISE)), computing[number])
        finished += 1
        told(finished)
        if job.at < steps:
            heapq.heappush(starts, (now + computing[number], number))
    later = slice(STEPS_PER_PROMPT, None)
    return Shared(
        fmean(seconds for job in made for seconds in job.step_seconds[later]),
        fmean(computing),
        [fmean(job.rates[at][_LINK_CLASS] for job in made) for at in range(steps)],
        [sum(job.switches_between(at, at + 1) for job in made) / jobs for at in range(steps)],
    )


def fixed_rungs() -> list[Rung]:
    """What the law is compared with: every job at one rung."""
    return [rung for rung in LADDER if rung.name != "raw"]


def _job(fixed: Rung | None) -> Job:
    if fixed is None:
        return Job((_LINK_CLASS,), limits(), traffic=_TRAFFIC)
    return Job((_LINK_CLASS,), limits(adaptive=False), fixed.millibits, _TRAFFIC)


def _size(rates: dict[str, int]) -> float:
    return sum(one.values for one in _TRAFFIC) * rates[_LINK_CLASS] / 8000


def _priced(job: Job, seconds: float, jitter: Callable[[], float]) -> Priced:
    """The step's windows: what the uplink took is divided among the operations by their bytes."""
    millibits = job.sent_millibits[_LINK_CLASS]
    values = sum(one.values for one in _TRAFFIC)
    windows = tuple(
        window(
            _LINK_CLASS,
            one,
            one.values * millibits / 8000,
            (one.count * _LATENCY_SECONDS + seconds * one.values / values) * jitter(),
        )
        for one in _TRAFFIC
    )
    return Priced(windows, values * rung_at(millibits).codec_seconds_per_value)
