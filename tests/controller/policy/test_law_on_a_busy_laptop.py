"""The law on a recorded machine: four ranks on two cores that other work keeps busy.

Computing and the fixed cost of an exchange vary threefold: busy_laptop.csv has both. The link is made up.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.controller.policy.simulator import LADDER, OFF_MILLIBITS, Link, limits, window
from thinwire.controller.policy import tuner
from thinwire.controller.policy.reports import Step

RECORDED = Path(__file__).with_name("busy_laptop.csv")
VALUES = 663_552
STEPS = 28


def rates_over(drop_at: int, back_at: int, *, fast: float = 250e6, slow: float = 2.5e6, shift: int = 0) -> list[int]:
    """The rate of every step when the link is slow from `drop_at` to `back_at`; `shift` turns the recording."""
    rows = list(csv.DictReader(RECORDED.read_text().splitlines()))
    rate, epoch, state = OFF_MILLIBITS, 0, None
    state = tuner.begin(LADDER, limits(warmup_steps=1, target_stall_percent=10), (("intra-node", rate),), 0)
    coming: list[tuple[int, tuner.Directive]] = []
    rates: list[int] = []
    for at in range(len(rows)):
        row = rows[(at + shift) % len(rows)]
        was = rate
        while coming and coming[0][0] <= at:
            directive = coming.pop(0)[1]
            rate, epoch = dict(directive.rates)["intra-node"], directive.epoch
        key_frame = at % STEPS < 1 or (was == OFF_MILLIBITS and rate != OFF_MILLIBITS)
        beta = slow if drop_at <= at < back_at else fast
        sent = OFF_MILLIBITS if key_frame else rate
        windows = tuple(
            window("intra-node", operation, count, VALUES, sent, Link(beta, float(row[latency])), 1.0)
            for operation, count, latency in (
                ("ring.all_gather", 12, "ring_latency_seconds"),
                ("ulysses.all_to_all", 48, "ulysses_latency_seconds"),
            )
        )
        compute = float(row["compute_seconds"])
        total = compute + sum(one.sum_seconds for one in windows)
        step = Step(at, at % STEPS, total, compute, 0.0, epoch, (("intra-node", rate),), key_frame, windows)
        state, verdict = tuner.after_step(state, step)
        if verdict.directive is not None:
            coming.append((at + 2, verdict.directive))
        rates.append(rate)
    return rates


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
    assert rates[149] <= 2200
    assert max(rates[168:180]) >= 4200


@pytest.mark.parametrize("shift", [0, 40, 80, 120, 160, 200])
def test_on_a_fast_link_the_machines_own_noise_moves_the_rate_seldom(shift: int):
    rates = rates_over(1000, 1000, shift=shift)
    assert switches(rates, 28, 224) <= 8
