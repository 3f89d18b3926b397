from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from thinwire.controller.kubernetes.api import Api, ApiError
from thinwire.controller.kubernetes.refused_pods import FRESH_SECONDS, RefusedPods
from thinwire.controller.kubernetes.resources import Raw, Resource


def job(name: str, namespace: str = "default") -> Raw:
    return {"metadata": {"name": name, "namespace": namespace, "uid": f"uid-{name}"}}


def refusal(name: str, message: str, second: int = 1) -> Raw:
    about = {"kind": "Job", "uid": f"uid-{name}"}
    return {"involvedObject": about, "message": message, "lastTimestamp": f"2026-01-01T00:00:{second:02}Z"}


class Events:
    """An API server with the events of each namespace; counts how often they are read."""

    def __init__(self, **events: list[Raw]) -> None:
        self.events = events
        self.read: list[str] = []
        self.away = False

    async def list(self, resource: Resource, namespace: str = "", **query: str) -> Raw:
        assert query == {"fieldSelector": "involvedObject.kind=Job,reason=FailedCreate"}
        self.read.append(namespace)
        await asyncio.sleep(0)
        if self.away:
            raise ApiError(0, "Unreachable", "no answer")
        return {"items": self.events.get(namespace, [])}


class Clock:
    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def asked(events: Events, *steps: Any) -> list[str]:
    """What is said of each Job of `steps`, one list of Jobs at once after the other; a number lets time pass."""
    clock, said = Clock(), []

    async def run() -> None:
        refused = RefusedPods(cast(Api, events), clock)
        for step in steps:
            if isinstance(step, float):
                clock.seconds += step
                continue
            causes = await asyncio.gather(*(refused.cause(one) for one in step))
            said.extend(cause.message if cause is not None else "" for cause in causes)

    asyncio.run(run())
    return said


def test_the_last_refusal_of_a_job_is_its_cause_with_a_remedy() -> None:
    events = Events(default=[refusal("a", "newest", 9), refusal("a", "oldest", 3), refusal("b", "another's")])
    (said,) = asked(events, [job("a")])
    assert said == (
        "no pod of Job a can be created: newest; mend spec.podTemplate in a new job, or what refuses the pods"
    )


def test_a_job_that_was_refused_nothing_has_no_cause() -> None:
    assert asked(Events(default=[refusal("b", "another's")]), [job("a")]) == [""]


def test_many_jobs_of_a_namespace_cost_one_reading() -> None:
    events = Events(default=[refusal("job-7", "quota")])
    said = asked(events, [job(f"job-{number}") for number in range(100)], [job("job-7")])
    assert events.read == ["default"]
    assert [bool(one) for one in said].count(True) == 2


def test_namespaces_are_read_apart_and_again_after_a_while() -> None:
    events = Events(lab=[refusal("a", "quota")])
    said = asked(events, [job("a"), job("a", "lab")], FRESH_SECONDS + 1.0, [job("a", "lab")])
    assert events.read == ["default", "lab", "lab"]
    assert [bool(one) for one in said] == [False, True, True]


def test_a_server_that_is_away_is_told_to_all_and_asked_again_later() -> None:
    events = Events()
    events.away = True
    with pytest.raises(ApiError, match="no answer"):
        asked(events, [job("a"), job("b")])
    assert events.read == ["default"]
