"""The rules of a step boundary, as a table and as laws."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.compression import BITS1, BITS2, INT4, INT8, LADDER, RAW, Rung
from thinwire.runtime.exchange.control import ExchangeState, Policy, StepOutcome, decide, next_prompt
from thinwire.runtime.exchange.rates import OFF_MILLIBITS, RateTable
from thinwire.runtime.facts import Directive
from thinwire.runtime.parallel import LinkClass

CODED = [rung for rung in LADDER if rung is not RAW]
TABLE = RateTable(((None, 32_000), *((rung, rung.millibits + 300) for rung in CODED)))
POLICY = Policy(TABLE, warmup_steps=1, max_relative_error=0.1)
QUIET = StepOutcome(max_relative_error=0.0, frames_refused=0, base_mismatches=0, directive=None)
INTRA, INTER = LinkClass.INTRA_NODE, LinkClass.INTER_NODE


def state_at(rung: Rung | None, **fields: object) -> ExchangeState:
    rate = OFF_MILLIBITS if rung is None else rung.millibits
    return replace(ExchangeState({INTRA: rate}, key_frame=False), **fields)


def test_a_quiet_step_changes_nothing() -> None:
    decision = decide(state_at(BITS2), QUIET, POLICY, next_step=3)
    assert decision.changes == ()
    assert not decision.state.key_frame
    assert not decision.forced_key_frame


@pytest.mark.parametrize(
    "outcome", [replace(QUIET, frames_refused=1), replace(QUIET, base_mismatches=2)], ids=["refused", "mismatch"]
)
def test_what_went_wrong_is_repaired_by_a_key_frame(outcome: StepOutcome) -> None:
    decision = decide(state_at(BITS2), outcome, POLICY, next_step=3)
    assert decision.state.key_frame
    assert decision.forced_key_frame


def test_warm_up_steps_are_key_frames_without_being_forced() -> None:
    decision = decide(state_at(BITS2), QUIET, replace(POLICY, warmup_steps=5), next_step=4)
    assert decision.state.key_frame
    assert not decision.forced_key_frame


def test_a_step_above_the_ceiling_raises_a_rung_and_forces_a_key_frame_at_once() -> None:
    loud = replace(QUIET, max_relative_error=0.2)
    first = decide(state_at(BITS2), loud, POLICY, next_step=3)
    assert first.state.rungs(TABLE)[INTRA] is TABLE.raised(BITS2, 1)
    assert first.state.key_frame
    assert first.forced_key_frame
    assert "above the ceiling" in first.changes[0].reason
    second = decide(first.state, QUIET, POLICY, next_step=4)
    assert not second.state.key_frame
    assert second.state.raised == 1


def test_a_key_frame_s_error_says_nothing_about_the_rung() -> None:
    decision = decide(state_at(BITS2, key_frame=True), replace(QUIET, max_relative_error=0.9), POLICY, next_step=3)
    assert decision.changes == ()


def test_a_raised_rung_comes_down_after_calm_steps() -> None:
    state = state_at(BITS2, raised=2)
    calm = replace(QUIET, max_relative_error=0.04)
    for step in range(3):
        decision = decide(state, calm, POLICY, next_step=step + 3)
        assert decision.changes == ()
        state = decision.state
    decision = decide(state, calm, POLICY, next_step=7)
    assert decision.state.raised == 1
    assert decision.changes[0].from_millibits > decision.changes[0].to_millibits


def test_a_directive_names_its_reason_and_what_really_travels() -> None:
    outcome = replace(QUIET, directive=Directive(3, {"intra-node": 1000}, "thin link"))
    decision = decide(state_at(INT4), outcome, POLICY, next_step=3)
    (change,) = decision.changes
    assert (change.link_class, change.from_millibits, change.to_millibits) == (INTRA, 4300, 1300)
    assert change.reason == "thin link"
    assert decision.state.epoch == 3


@pytest.mark.parametrize("epoch", [0, 7])
def test_a_directive_whose_epoch_is_not_above_the_one_in_force_is_ignored(epoch: int) -> None:
    state = state_at(INT4, epoch=7)
    outcome = replace(QUIET, directive=Directive(epoch, {"intra-node": 1000}))
    assert decide(state, outcome, POLICY, next_step=3).state.rates == state.rates


def test_a_link_class_that_a_directive_does_not_name_keeps_its_rate() -> None:
    state = replace(state_at(INT4), rates={INTRA: 8000, INTER: 4000})
    outcome = replace(QUIET, directive=Directive(1, {"inter-node": 1000}))
    assert decide(state, outcome, POLICY, next_step=3).state.rates == {INTRA: 8000, INTER: 1000}


def test_a_directive_to_more_bits_takes_the_ceiling_s_raise_along() -> None:
    outcome = replace(QUIET, directive=Directive(1, {"intra-node": INT4.millibits}))
    decision = decide(state_at(BITS2, raised=2), outcome, POLICY, next_step=3)
    assert decision.state.raised == 0
    assert decision.state.rungs(TABLE)[INTRA] is INT4


def test_off_to_coded_begins_with_a_key_frame() -> None:
    outcome = replace(QUIET, directive=Directive(1, {"intra-node": 2000}))
    decision = decide(state_at(None), outcome, POLICY, next_step=3)
    assert decision.state.key_frame
    assert not decision.forced_key_frame


def test_a_prompt_starts_from_a_key_frame_at_the_commanded_rates() -> None:
    state = next_prompt(state_at(BITS1, raised=1, epoch=4))
    assert state.key_frame
    assert (state.rates, state.raised, state.epoch) == ({INTRA: BITS1.millibits}, 0, 4)


def test_a_rate_names_the_rung_by_what_travels_or_by_its_bits() -> None:
    assert TABLE.rung(2300) is BITS2
    assert TABLE.rung(2000) is BITS2
    assert TABLE.rung(2299) is BITS2
    assert TABLE.rung(8300) is INT8
    assert TABLE.rung(1) is CODED[-1]
    assert TABLE.rung(16_000) is None
    assert TABLE.rung(32_000) is None


@given(
    errors=st.lists(st.floats(0, 1), min_size=1, max_size=40),
    start=st.sampled_from(CODED),
    commands=st.lists(st.none() | st.integers(500, 33_000), min_size=40, max_size=40),
)
def test_no_step_above_the_ceiling_without_a_key_frame_at_once(
    errors: list[float], start: Rung, commands: list[int | None]
) -> None:
    state = state_at(start)
    for number, error in enumerate(errors):
        was_key_frame = state.key_frame
        command = commands[number]
        directive = None if command is None else Directive(number + 1, {"intra-node": command})
        outcome = replace(QUIET, max_relative_error=error, directive=directive)
        state = decide(state, outcome, POLICY, next_step=number + 2).state
        assert was_key_frame or error <= POLICY.max_relative_error or state.key_frame
