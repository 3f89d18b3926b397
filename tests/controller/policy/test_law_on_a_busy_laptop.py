"""The law on a recorded machine: four ranks on two cores that other work keeps busy.

Computing and the fixed cost of an exchange vary threefold: busy_laptop.csv has both. The link is made up.
"""

from __future__ import annotations

import pytest

from bench.simulator.job import OFF_MILLIBITS, Job, Link, even_traffic, limits
from bench.simulator.scenarios import busy_laptop

VALUES = 1_327_104


def rates_over(drop_at: int, back_at: int, *, fast: float = 250e6, slow: float = 2.5e6, shift: int = 0) -> list[int]:
    """The rate of every step when the link is slow from `drop_at` to `back_at`; `shift` turns the recording."""
    recorded = busy_laptop()
    job = Job(("intra-node",), limits(warmup_steps=1, target_stall_percent=10), OFF_MILLIBITS, even_traffic(VALUES))
    for at in range(len(recorded)):
        moment = recorded[(at + shift) % len(recorded)]
        beta = slow if drop_at <= at < back_at else fast
        link = Link(beta, moment.ring_latency_seconds, moment.ulysses_latency_seconds)
        job.advance({"intra-node": link}, moment.compute_seconds)
    return [rates["intra-node"] for rates in job.rates]


def switches(rates: list[int], first: int, last: int) -> int:
    return sum(rates[at] != rates[at - 1] for at in range(max(first, 1), last))


@pytest.mark.parametrize("shift", [0, 40, 80, 120, 160, 200])
@pytest.mark.parametrize("drop_at", [84, 92])
def test_a_hundredfold_drop_is_answered_within_three_steps_by_one_switch(drop_at: int, shift: int):
    rates = rates_over(drop_at, 150, shift=shift)
    assert rates[drop_at + 3] <= 4200
    assert max(rates[drop_at + 3 : 150]) <= 4200
    assert switches(rates, drop_at, 150) <= 2


@pytest.mark.parametrize("shift", [0, 40, 80, 120, 160, 200])
def test_the_recovery_is_found_within_the_prompt_after_it(shift: int):
    rates = rates_over(84, 150, shift=shift)
    assert rates[149] <= 1200
    assert max(rates[168:180]) >= 3200


@pytest.mark.parametrize("shift", [0, 40, 80, 120, 160, 200])
def test_on_a_fast_link_the_machines_own_noise_moves_the_rate_seldom(shift: int):
    rates = rates_over(1000, 1000, shift=shift)
    assert switches(rates, 28, 224) <= 8
