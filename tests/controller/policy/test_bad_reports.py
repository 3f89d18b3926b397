"""Whatever a report says, one that cannot be believed is named, and the law goes on as if it had not come."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.controller.policy.simulator import LADDER, fast_then_slow, limits, simulate
from thinwire.controller.policy import tuner
from thinwire.controller.policy.reports import Step, Window, refusal_of_step

IMPOSSIBLE = (float("nan"), float("inf"), -float("inf"), -1.0, 1e300)
WINDOW_FIGURES = ("sum_seconds", "sum_bytes", "sum_bytes_squared", "sum_bytes_seconds", "encode_seconds")


def with_window(step: Step, **changed: float) -> Step:
    return replace(step, windows=(replace(step.windows[0], **changed), *step.windows[1:]))  # type: ignore[arg-type]


Spoil = Callable[[Step], Step]
spoils: st.SearchStrategy[Spoil] = st.one_of(
    st.tuples(st.sampled_from(WINDOW_FIGURES), st.sampled_from(IMPOSSIBLE)).map(
        lambda drawn: lambda step: with_window(step, **{drawn[0]: drawn[1]})
    ),
    st.tuples(st.sampled_from(("step_seconds", "compute_seconds")), st.sampled_from(IMPOSSIBLE)).map(
        lambda drawn: lambda step: replace(step, **{drawn[0]: drawn[1]})
    ),
    st.sampled_from((0, -1, 2**62)).map(lambda count: lambda step: with_window(step, count=count)),
    st.just(lambda step: with_window(step, values=2**60)),
    st.just(lambda step: replace(step, compute_seconds=step.step_seconds + 3600)),
    st.integers(2_000, 2**31 - 1).map(lambda leap: lambda step: replace(step, job_step=step.job_step + leap)),
    st.integers(1, 50).map(lambda back: lambda step: replace(step, job_step=step.job_step - back)),
    st.just(lambda step: replace(step, windows=(*step.windows, step.windows[0]))),
    st.just(lambda step: replace(step, rates=(*step.rates, step.rates[0]))),
    st.just(lambda step: replace(step, rates=tuple((f"class-{number}", 4000) for number in range(30)))),
)


@settings(max_examples=40)
@given(st.lists(spoils, min_size=1, max_size=4), st.integers(0, 1000))
def test_bad_reports_between_good_ones_are_counted_and_move_nothing(drawn: list[Spoil], seed: int):
    chance = random.Random(seed)
    bad = 0

    def spoil(step: Step) -> list[Step]:
        nonlocal bad
        if step.job_step == 0 or chance.random() > 0.3:
            return [step]
        bad += 1
        return [chance.choice(drawn)(step), step]

    clean = simulate(fast_then_slow, steps=100, noise=0.1)
    spoiled = simulate(fast_then_slow, steps=100, noise=0.1, spoil=spoil)
    assert spoiled.rates == clean.rates
    assert [switch.reason for switch in spoiled.switches] == [switch.reason for switch in clean.switches]
    assert len(spoiled.refusals) == bad


@settings(max_examples=20)
@given(st.integers(1, 99), st.integers(1, 40))
def test_a_replayed_stream_and_reports_out_of_order_move_nothing(at: int, back: int):
    said: list[Step] = []

    def replayed(step: Step) -> list[Step]:
        said.append(step)
        return [step, *said[-back:]] if step.job_step == at else [step]

    clean = simulate(fast_then_slow, steps=100, noise=0.1)
    again = simulate(fast_then_slow, steps=100, noise=0.1, spoil=replayed)
    assert again.rates == clean.rates
    assert set(again.refusals) == {"step out of order"}


@pytest.mark.parametrize("at", range(58, 80))
@pytest.mark.parametrize("stretch", [1e-3, 1e3])
def test_a_clock_that_jumps_once_changes_no_rate(at: int, stretch: float):
    def jumped(step: Step) -> list[Step]:
        if step.job_step != at:
            return [step]
        windows = tuple(
            replace(one, sum_seconds=one.sum_seconds * stretch, sum_bytes_seconds=one.sum_bytes_seconds * stretch)
            for one in step.windows
        )
        return [replace(step, windows=windows)]

    run = simulate(lambda step: fast_then_slow(99), steps=120, noise=0.1, spoil=jumped)
    assert run.refusals == []
    assert run.switches_between(at, 120) == 0


def plain_step(job_step: int) -> Step:
    window = Window("intra-node", "ring.all_gather", 12, 1e6, 0.01, values=250_000)
    return Step(job_step, job_step % 28, 0.3, 0.25, 0.0, 0, (("intra-node", 32000),), False, (window,))


def test_a_leap_ahead_is_believed_when_the_next_report_goes_on_from_there():
    state = tuner.begin(LADDER, limits(), (("intra-node", 32000),), 0)
    refusals = []
    for job_step in (0, 1, 50_000, 2, 50_000, 50_001, 50_002):
        state, verdict = tuner.after_step(state, plain_step(job_step))
        refusals.append(verdict.refusal)
    leap = "step leaps ahead"
    assert refusals == [None, None, leap, None, leap, None, None]


def test_ever_new_operations_are_refused_before_they_fill_the_memory():
    state = tuner.begin(LADDER, limits(), (("intra-node", 32000),), 0)
    for job_step in range(100):
        step = with_window(plain_step(job_step), operation=f"operation-{job_step}")  # type: ignore[arg-type]
        state, verdict = tuner.after_step(state, step)
    assert verdict.refusal == "too many operations"
    assert len(state.links[0].operations) <= 16


def test_squares_and_products_that_no_exchanges_have_are_refused():
    step = plain_step(0)
    assert refusal_of_step(step, -1) is None
    for impossible in ({"sum_bytes_squared": 1e13}, {"sum_bytes_squared": 1.0}, {"sum_bytes_seconds": 2e4}):
        assert refusal_of_step(with_window(step, **impossible), -1) == "window inconsistent"


@pytest.mark.parametrize("figure", ["count", "sum_bytes", "sum_seconds"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_window_of_nothing_or_less_is_refused_by_name(figure: str, value: int):
    refusal = refusal_of_step(with_window(plain_step(0), **{figure: value}), -1)
    assert refusal in ("window empty", "window negative", "window faster than any link")
