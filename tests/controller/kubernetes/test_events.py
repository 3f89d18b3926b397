from __future__ import annotations

from dataclasses import replace

import pytest

from tests.controller import messages
from thinwire.controller.ingest import allow, greet, take
from thinwire.controller.job_record import Allowed, Heard, JobKey, JobRecord
from thinwire.controller.kubernetes.diagnosis import Cause
from thinwire.controller.kubernetes.events import Moment, event_of, notes_between
from thinwire.controller.plan import State
from thinwire.proto.thinwire.v1alpha1.telemetry_pb2 import Retune

RECORD = JobRecord(JobKey("default", "emoji"), prompts_total=8, attempt=1, state=State.STARTING)
RUNNING = replace(RECORD, state=State.RUNNING, heard=replace(RECORD.heard, prompts_done=3))
NO_NODE = Cause("Unschedulable", "pod emoji-1-0 has no node")
RETUNE = Retune(
    job_step=90,
    prompt_name="rocket",
    step=5,
    epoch=2,
    link_class="inter-node",
    from_millibits=32000,
    to_millibits=4200,
    reason="off stalls 49 %",
)

TABLE = {
    "nothing new": (Moment(RUNNING), Moment(RUNNING), {}),
    "an attempt": (
        Moment(replace(RECORD, attempt=0)),
        Moment(RECORD),
        {"AttemptStarted": "attempt 1 has begun: its pods are created"},
    ),
    "pods that wait": (Moment(RECORD), Moment(RECORD, NO_NODE), {"Unschedulable": "pod emoji-1-0 has no node"}),
    "pods that still wait": (Moment(RECORD, NO_NODE), Moment(RECORD, replace(NO_NODE, message="other words")), {}),
    "steps": (Moment(RECORD), Moment(RUNNING), {"Running": "the ranks of attempt 1 make pictures"}),
    "a failure": (
        Moment(RUNNING),
        Moment(replace(RUNNING, state=State.RESTARTING, message="attempt 1 failed (x); restart 1 of 3")),
        {"Restarting": "attempt 1 failed (x); restart 1 of 3"},
    ),
    "the last failure": (
        Moment(RUNNING),
        Moment(replace(RUNNING, state=State.FAILED, message="none is left"), Cause("OOMKilled", "x")),
        {"Failed": "none is left (3 of 8 pictures)"},
    ),
    "a pause": (
        Moment(RUNNING),
        Moment(replace(RUNNING, state=State.SUSPENDED)),
        {"Suspended": "suspended with 3 of 8 pictures; the rest is made after resuming"},
    ),
    "the end": (
        Moment(RUNNING),
        Moment(replace(RUNNING, state=State.SUCCEEDED, heard=replace(RUNNING.heard, prompts_done=8))),
        {"Succeeded": "all prompts are done: 8 of 8 pictures"},
    ),
    "a rate": (
        Moment(RUNNING),
        Moment(replace(RUNNING, retunes=(RETUNE,))),
        {"RateChanged": "32 to 4.2 bits a value (inter-node links, rocket step 6): off stalls 49 %"},
    ),
}


@pytest.mark.parametrize(("before", "after", "expected"), TABLE.values(), ids=TABLE.keys())
def test_what_is_told(before: Moment, after: Moment, expected: dict[str, str]):
    assert {note.reason: note.text for note in notes_between(before, after)} == expected


def test_retunes_from_before_a_controllers_restart_are_not_told_again():
    known = replace(RECORD, heard=Heard(attempt=1, steps_reported=1), state=State.RUNNING)
    hello = messages.hello()
    hello.hello.retunes.append(RETUNE)
    after = greet(known, hello, 0.0)
    assert len(after.retunes) == 1
    assert list(notes_between(Moment(known), Moment(after))) == []


def test_an_event_is_within_the_api_servers_limits():
    job = {"metadata": {"name": "emoji", "namespace": "default", "uid": "1"}}
    (note,) = notes_between(
        Moment(RUNNING), Moment(replace(RUNNING, state=State.FAILED, message="x" * 5000), Cause("y" * 500, ""))
    )
    event = event_of(job, note, 7, 1e9)
    assert len(event["note"]) == 1024
    assert len(event["reason"]) <= 128
    assert event["type"] == "Warning"
    assert event["eventTime"] == "2001-09-09T01:46:40.000000Z"


def test_a_running_attempt_stays_known_to_run_when_a_new_controller_hears_it():
    known = replace(RECORD, heard=Heard(attempt=1, steps_reported=1), state=State.RUNNING)
    assert greet(known, messages.hello(), 0.0).heard.steps_reported == 1
    assert greet(known, messages.hello(attempt=2), 0.0).heard.steps_reported == 0


def test_new_limits_hold_for_a_running_tuner_and_for_every_hello_to_come():
    allowed = Allowed(1000, 4500, 20)
    record = allow(greet(RECORD, messages.hello(), 0.0), allowed)
    assert record.heard.tuner is not None
    assert record.heard.tuner.limits.max_millibits == 4500
    again = greet(record, messages.hello(2), 0.0)
    assert again.heard.tuner is not None
    assert (again.heard.tuner.limits.max_millibits, again.heard.tuner.limits.target_stall_percent) == (4500, 20)


def test_a_fixed_rate_that_moved_is_told_until_it_is_in_force():
    hello = messages.hello()
    hello.hello.policy.adaptive = False
    record = allow(greet(RECORD, hello, 0.0), Allowed(4000, 4000, 10))
    sent: list[int] = []
    for index in range(12):
        taken = take(record, messages.step(2 + index, index), 0.0)
        record = taken.record
        sent += [answer.directive.epoch for answer in taken.answers]
    assert sent == [1, 1, 1]
    taken = take(record, messages.step(20, 12, epoch=1, millibits=4200), 0.0)
    assert taken.record.heard.tuner is not None
    assert taken.record.heard.tuner.sent is None
    assert taken.answers == ()
