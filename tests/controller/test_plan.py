from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.controller.plan import (
    Attempt,
    Job,
    Plan,
    StartAttempt,
    State,
    StopAttempt,
    StopReason,
    Telemetry,
    backoff_seconds,
    plan,
)

NOW = 1000.0
JOB = Job(created_seconds=NOW, max_restarts=2)


def failed(number: int, code: int = 1, message: str = "rank 1 was ended by SIGKILL", **other: object) -> Attempt:
    return replace(Attempt(number, code, NOW, message), **other)  # type: ignore[arg-type]


def running(number: int) -> Attempt:
    return Attempt(number)


SUSPENDED_ONCE = failed(1, -15, "", stop=StopReason.SUSPENDED)

TABLE = {
    "a new job starts its first attempt": (
        JOB,
        (),
        Telemetry(),
        Plan((StartAttempt(1),), State.STARTING, "attempt 1 starts", 0),
    ),
    "a later run in the same folder counts on from the attempts of the one before": (
        replace(JOB, first_attempt=4),
        (failed(1), failed(2), failed(3)),
        Telemetry(),
        Plan((StartAttempt(4),), State.STARTING, "attempt 4 starts", 0),
    ),
    "ranks that were not heard yet are starting": (
        JOB,
        (running(1),),
        Telemetry(),
        Plan((), State.STARTING, "ranks start and load the model", 0),
    ),
    "ranks that said hello are starting until their first step": (
        JOB,
        (running(1),),
        Telemetry(1),
        Plan((), State.STARTING, "ranks are up, first step under way", 0),
    ),
    "ranks that step are running": (JOB, (running(1),), Telemetry(1, 3), Plan((), State.RUNNING, "", 0)),
    "what an earlier attempt reported is no sign of life of this one": (
        JOB,
        (failed(1), running(2)),
        Telemetry(1, 3),
        Plan((), State.STARTING, "ranks start and load the model", 1),
    ),
    "ranks that have failed but not ended yet are restarted after that": (
        JOB,
        (replace(running(1), failing=True, message="pod a was taken away"),),
        Telemetry(1, 3),
        Plan((), State.RESTARTING, "pod a was taken away", 0),
    ),
    "a gang that no queue has admitted waits": (
        JOB,
        (replace(running(1), held=True, message="queue main has not admitted it"),),
        Telemetry(),
        Plan((), State.PENDING, "queue main has not admitted it", 0),
    ),
    "a gang that has run and lost its place queues again": (
        JOB,
        (replace(running(1), held=True),),
        Telemetry(1, 3),
        Plan(
            (StopAttempt(1, StopReason.EVICTED),),
            State.PENDING,
            "attempt 1 was evicted by its queue; it queues again as the next one",
            0,
        ),
    ),
    "an eviction counts as no restart": (
        JOB,
        (failed(1, -15, "", stop=StopReason.EVICTED),),
        Telemetry(1, 3),
        Plan((StartAttempt(2),), State.STARTING, "attempt 2 starts", 0),
    ),
    "ranks that end well end the job": (
        JOB,
        (Attempt(1, 0, NOW),),
        Telemetry(1, 3),
        Plan((), State.SUCCEEDED, "all prompts are done", 0),
    ),
    "a first failure is restarted at once": (
        JOB,
        (failed(1),),
        Telemetry(1, 3),
        Plan(
            (StartAttempt(2),),
            State.RESTARTING,
            "attempt 1 failed (rank 1 was ended by SIGKILL); restart 1 of 2",
            1,
        ),
    ),
    "a second failure waits a little": (
        JOB,
        (failed(1), failed(2)),
        Telemetry(),
        Plan((), State.RESTARTING, "attempt 2 failed (rank 1 was ended by SIGKILL); restart 2 of 2", 1, 1.0),
    ),
    "one failure more than maxRestarts ends the job": (
        JOB,
        (failed(1), failed(2), failed(3)),
        Telemetry(),
        Plan(
            (),
            State.FAILED,
            "attempt 3 failed and none is left (maxRestarts 2): rank 1 was ended by SIGKILL",
            2,
        ),
    ),
    "bad input is not tried again": (
        JOB,
        (failed(1, 2, "model folder /x: expected weights, got none; name another"),),
        Telemetry(),
        Plan((), State.FAILED, "model folder /x: expected weights, got none; name another", 0),
    ),
    "what rank 0 said itself goes before what its log says": (
        JOB,
        (failed(1, 2, "exit 2"),),
        Telemetry(1, 0, "the prompt is empty"),
        Plan((), State.FAILED, "the prompt is empty", 0),
    ),
    "suspending stops what runs": (
        replace(JOB, suspend=True),
        (running(1),),
        Telemetry(1, 3),
        Plan((StopAttempt(1, StopReason.SUSPENDED),), State.SUSPENDED, "suspended by runPolicy.suspend", 0),
    ),
    "what was told to stop is not told again": (
        replace(JOB, suspend=True),
        (replace(running(1), stop=StopReason.SUSPENDED),),
        Telemetry(1, 3),
        Plan((), State.SUSPENDED, "suspended by runPolicy.suspend", 0),
    ),
    "a suspended job starts nothing": (
        replace(JOB, suspend=True),
        (),
        Telemetry(),
        Plan((), State.SUSPENDED, "suspended by runPolicy.suspend", 0),
    ),
    "resuming starts the next attempt, which is no restart": (
        JOB,
        (SUSPENDED_ONCE,),
        Telemetry(),
        Plan((StartAttempt(2),), State.STARTING, "attempt 2 starts", 0),
    ),
    "a deadline that passed stops what runs": (
        replace(JOB, created_seconds=NOW - 60, active_deadline_seconds=60),
        (running(1),),
        Telemetry(1, 3),
        Plan(
            (StopAttempt(1, StopReason.DEADLINE),),
            State.FAILED,
            "activeDeadlineSeconds of 60 have passed; allow more or ask for less",
            0,
        ),
    ),
    "a deadline to come is looked at when it comes": (
        replace(JOB, active_deadline_seconds=60),
        (running(1),),
        Telemetry(1, 3),
        Plan((), State.RUNNING, "", 0, 60.0),
    ),
    "success before the deadline was looked at is success": (
        replace(JOB, created_seconds=NOW - 61, active_deadline_seconds=60),
        (Attempt(1, 0, NOW),),
        Telemetry(1, 3),
        Plan((), State.SUCCEEDED, "all prompts are done", 0),
    ),
    "of two gangs the older one goes": (
        JOB,
        (running(1), running(2)),
        Telemetry(2, 1),
        Plan((StopAttempt(1, StopReason.SUPERSEDED),), State.RUNNING, "", 1),
    ),
    "a job that has ended stays so": (
        replace(JOB, state=State.FAILED, message="why"),
        (failed(1),),
        Telemetry(),
        Plan((), State.FAILED, "why", 0),
    ),
}


@pytest.mark.parametrize(("job", "attempts", "telemetry", "expected"), TABLE.values(), ids=TABLE)
def test_the_plan(job: Job, attempts: tuple[Attempt, ...], telemetry: Telemetry, expected: Plan):
    assert plan(job, attempts, telemetry, NOW) == expected


def test_a_restart_comes_when_its_wait_is_over():
    attempts = (failed(1), failed(2))
    assert plan(JOB, attempts, Telemetry(), NOW + 1).actions == (StartAttempt(3),)


def test_waits_double_up_to_a_minute():
    assert [backoff_seconds(failures) for failures in range(1, 10)] == [0, 1, 2, 4, 8, 16, 32, 60, 60]


attempts_in_order = st.lists(
    st.tuples(st.sampled_from([None, 0, 1, 2, -9]), st.sampled_from([None, *StopReason])), max_size=6
).map(
    lambda drawn: tuple(
        Attempt(number, code, NOW, "x", stop=stop) for number, (code, stop) in enumerate(drawn, start=1)
    )
)
jobs = st.builds(
    Job,
    created_seconds=st.floats(0, NOW),
    suspend=st.booleans(),
    active_deadline_seconds=st.none() | st.integers(1, 2000),
    max_restarts=st.integers(0, 3),
    first_attempt=st.integers(1, 4),
    state=st.sampled_from(State),
)


@given(jobs, attempts_in_order)
def test_a_plan_never_starts_beside_what_runs_nor_a_number_twice(job: Job, attempts: tuple[Attempt, ...]):
    planned = plan(job, attempts, Telemetry(), NOW)
    starts = [action.number for action in planned.actions if isinstance(action, StartAttempt)]
    assert len(starts) <= 1
    if starts:
        assert all(attempt.exit_code is not None for attempt in attempts)
        assert starts[0] not in {attempt.number for attempt in attempts if attempt.number >= job.first_attempt}
        assert not job.suspend
        assert not job.state.ended


@given(jobs, attempts_in_order)
def test_an_ended_job_acts_only_to_stop(job: Job, attempts: tuple[Attempt, ...]):
    planned = plan(job, attempts, Telemetry(), NOW)
    if planned.state.ended:
        assert all(isinstance(action, StopAttempt) for action in planned.actions)
