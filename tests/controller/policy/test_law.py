from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.controller.policy.simulator import LADDER, limits
from thinwire.controller.policy.forecast import Outlook, allowed
from thinwire.controller.policy.law import AS_SHORT, Hysteresis, Move, Views, choose, consider
from thinwire.controller.policy.reports import Rung

rungs = st.lists(st.integers(500, 40_000), min_size=1, max_size=10, unique=True).map(
    lambda sizes: tuple(Rung(f"r{size}", size) for size in sorted(sizes, reverse=True))
)
seconds = st.floats(0, 100)


def priced(ladder: tuple[Rung, ...], stalls: list[float]) -> tuple[Outlook, ...]:
    return tuple(Outlook(rung, stall) for rung, stall in zip(ladder, stalls, strict=False))


@given(rungs, st.lists(seconds, min_size=10, max_size=10), seconds, seconds)
def test_the_choice_is_the_least_lossy_within_the_budget_or_as_short_as_any(
    ladder: tuple[Rung, ...], stalls: list[float], budget: float, compute: float
):
    outlooks = priced(ladder, stalls)
    chosen = choose(outlooks, budget, compute)
    fitting = [outlook for outlook in outlooks if outlook.stall_seconds <= budget]
    if fitting:
        assert chosen == fitting[0]
    else:
        assert compute + chosen.stall_seconds <= AS_SHORT * (compute + min(stalls[: len(outlooks)]))


@given(
    rungs,
    st.lists(st.lists(seconds, min_size=10, max_size=10), min_size=1, max_size=30),
    st.booleans(),
    seconds,
    st.integers(0, 9),
)
def test_two_switches_are_never_closer_than_two_windows_and_frozen_windows_never_switch(
    ladder: tuple[Rung, ...], history: list[list[float]], frozen: bool, compute: float, start: int
):
    memory, current = Hysteresis(decided=True), ladder[start % len(ladder)]
    since = 0
    for stalls in history:
        view = priced(ladder, stalls)
        since += 1
        memory, choice = consider(
            memory,
            Views(view, view, view),
            current,
            budget_seconds=0.1 * compute,
            compute_seconds=compute,
            frozen=frozen,
        )
        if choice.move is not Move.HOLD:
            assert not frozen
            assert since >= 2
            since = 0
        assert (choice.rung == current) is (choice.move is Move.HOLD)
        current = choice.rung


@given(st.integers(0, 40_000), st.integers(0, 40_000), st.integers(0, 40_000))
def test_there_is_always_a_rung_to_choose(least: int, most: int, barred: int):
    found = allowed(LADDER, limits(min_millibits=least, max_millibits=most), barred)
    assert found
    assert [rung.millibits for rung in found] == sorted((rung.millibits for rung in found), reverse=True)


def names(**limit: int) -> list[str]:
    return [rung.name for rung in allowed(LADDER, limits(**limit), limit.get("barred", 0))]


def test_limits_speak_of_content_and_headers_are_not_held_against_a_rung():
    assert names(min_millibits=2000, max_millibits=4000) == ["int4", "bits3", "bits2"]
    assert names(min_millibits=2000, max_millibits=2000) == ["bits2"]


def test_sixteen_bits_allow_off_at_any_width_and_raw_is_no_choice_beside_it():
    assert names(min_millibits=8000, max_millibits=16000) == ["off", "int8"]
    assert "off" not in names(min_millibits=1000, max_millibits=15999)
