from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import grpc
import pytest

from tests.controller.security.fakes import FakeCluster, pod_caller
from thinwire.controller.job_record import JobKey
from thinwire.controller.security import access as module
from thinwire.controller.security.access import TELEMETRY_AUDIENCE, Access, Reporter
from thinwire.controller.security.cluster import Caller, JobPod
from thinwire.controller.security.refusals import RefusedError

ANNA = Caller("anna", groups=("people",))


def a_cluster() -> FakeCluster:
    return FakeCluster(
        tokens={
            ("secret-pod", TELEMETRY_AUDIENCE): pod_caller("team", "emoji-0"),
            ("secret-unbound", TELEMETRY_AUDIENCE): Caller("system:serviceaccount:team:default"),
            ("secret-stray", TELEMETRY_AUDIENCE): pod_caller("team", "stray"),
            ("secret-old", TELEMETRY_AUDIENCE): pod_caller("team", "emoji-0", uid="u0"),
            ("secret-gone", TELEMETRY_AUDIENCE): pod_caller("team", "gone"),
            ("secret-anna", ""): ANNA,
        },
        pods={("team", "emoji-0"): JobPod("u1", "emoji", 2), ("team", "stray"): JobPod("u1")},
        rights={("anna", "get", "team", "emoji"), ("anna", "list", "team", "")},
    )


def refused(question: Awaitable[Any]) -> RefusedError:
    async def ask() -> None:
        await question

    with pytest.raises(RefusedError) as error:
        asyncio.run(ask())
    return error.value


def test_a_pod_may_report_for_the_attempt_that_it_is_part_of():
    found = asyncio.run(Access(a_cluster()).reporter("secret-pod", "ipv4:10.0.0.1"))
    assert found == Reporter(JobKey("team", "emoji"), 2, "emoji-0")


@pytest.mark.parametrize(
    ("token", "code", "reason"),
    [
        ("", grpc.StatusCode.UNAUTHENTICATED, "no token"),
        ("x" * 40_000, grpc.StatusCode.UNAUTHENTICATED, "token too long"),
        ("secret-anna", grpc.StatusCode.UNAUTHENTICATED, "token not valid"),
        ("secret-unbound", grpc.StatusCode.PERMISSION_DENIED, "token of no pod"),
        ("secret-stray", grpc.StatusCode.PERMISSION_DENIED, "pod of no job"),
        ("secret-old", grpc.StatusCode.PERMISSION_DENIED, "pod of no job"),
        ("secret-gone", grpc.StatusCode.PERMISSION_DENIED, "pod of no job"),
    ],
)
def test_nobody_else_may_report_and_the_answer_says_what_to_do(token: str, code: grpc.StatusCode, reason: str):
    error = refused(Access(a_cluster()).reporter(token, "ipv4:10.0.0.1"))
    assert (error.code, error.reason) == (code, reason)
    assert "expected" in str(error)
    assert "secret-" not in str(error)


def test_a_cached_pod_is_asked_first_and_the_server_when_the_cache_is_behind():
    cluster = a_cluster()
    raw = {
        "metadata": {
            "uid": "u1",
            "labels": {"thinwire.dev/job-name": "emoji", "thinwire.dev/attempt": "2"},
            "ownerReferences": [{"kind": "Job", "controller": True}],
        }
    }
    caches = {"current": raw, "behind": {"metadata": {"uid": "u0"}}, "empty": None}
    for name, asked in (("current", 0), ("behind", 1), ("empty", 2)):
        found = asyncio.run(Access(cluster, lambda *_, name=name: caches[name]).reporter("secret-pod", "ipv4:10.0.0.1"))
        assert found.key == JobKey("team", "emoji")
        assert cluster.asked["pod"] == asked


@pytest.mark.parametrize(
    "metadata",
    [
        {"labels": {"thinwire.dev/job-name": "emoji", "thinwire.dev/attempt": "2"}},
        {
            "labels": {"thinwire.dev/job-name": "emoji", "thinwire.dev/attempt": "2"},
            "ownerReferences": [{"kind": "Job"}],
        },
        {"labels": {"thinwire.dev/job-name": "emoji"}, "ownerReferences": [{"kind": "Job", "controller": True}]},
        {
            "labels": {"thinwire.dev/job-name": "emoji", "thinwire.dev/attempt": "²"},
            "ownerReferences": [{"kind": "Job", "controller": True}],
        },
    ],
)
def test_labels_alone_make_no_pod_of_a_job(metadata: dict[str, Any]):
    from thinwire.controller.security.cluster import job_pod

    assert job_pod({"metadata": {"uid": "u", **metadata}}).job_name == ""


def test_a_right_bites_by_verb_namespace_and_name_and_the_answer_names_all_three():
    async def ask() -> None:
        access = Access(a_cluster())
        await access.may_read("secret-anna", "p", "get", "team", "emoji")
        await access.may_read("secret-anna", "p", "list", "team", "")
        for verb, namespace, name in (("watch", "team", "emoji"), ("get", "other", "emoji"), ("list", "", "")):
            with pytest.raises(RefusedError) as error:
                await access.may_read("secret-anna", "p", verb, namespace, name)
            assert error.value.code == grpc.StatusCode.PERMISSION_DENIED
            said = str(error.value)
            assert f"anna may not {verb} diffusionjobs.thinwire.dev" in said
            assert f"in namespace {namespace}" in said if namespace else "in all namespaces; name one" in said

    asyncio.run(ask())


def test_an_api_server_that_is_away_lets_nobody_in_and_its_silence_is_not_kept():
    async def ask() -> None:
        cluster = a_cluster()
        access = Access(cluster)
        cluster.away = True
        with pytest.raises(RefusedError) as error:
            await access.reporter("secret-pod", "p")
        assert error.value.code == grpc.StatusCode.UNAVAILABLE
        cluster.away = False
        assert (await access.reporter("secret-pod", "p")).key == JobKey("team", "emoji")

    asyncio.run(ask())


def test_an_answer_holds_for_a_while_and_no_longer():
    async def ask() -> None:
        now = [0.0]
        cluster = a_cluster()
        access = Access(cluster, clock=lambda: now[0])
        for _ in range(10):
            await access.may_read("secret-anna", "p", "get", "team", "emoji")
        assert (cluster.asked["review"], cluster.asked["allows"]) == (1, 1)
        cluster.rights.clear()
        now[0] = module.KNOWN_SECONDS + 1
        with pytest.raises(RefusedError, match="may not get"):
            await access.may_read("secret-anna", "p", "get", "team", "emoji")
        del cluster.tokens[("secret-anna", "")]
        now[0] += module.KNOWN_SECONDS + 1
        with pytest.raises(RefusedError, match="has expired"):
            await access.may_read("secret-anna", "p", "get", "team", "emoji")

    asyncio.run(ask())


def test_a_hundred_calls_with_one_new_token_ask_once():
    async def ask() -> None:
        cluster = a_cluster()
        access = Access(cluster)
        await asyncio.gather(*(access.may_read("secret-anna", "p", "get", "team", "emoji") for _ in range(100)))
        assert cluster.asked["review"] == 1

    asyncio.run(ask())


def test_a_flood_of_made_up_tokens_is_stopped_before_the_api_server_and_others_are_not_held_up():
    async def ask() -> None:
        cluster = a_cluster()
        access = Access(cluster)
        reasons = []
        for number in range(3000):
            with pytest.raises(RefusedError) as error:
                await access.reporter(f"made-up-{number}", "ipv4:10.6.6.6")
            reasons.append(error.value.reason)
        assert reasons[0] == "token not valid"
        assert reasons[-1] == "too many unknown tokens"
        assert cluster.asked["review"] < 2000
        assert (await access.reporter("secret-pod", "ipv4:10.0.0.1")).key == JobKey("team", "emoji")

    asyncio.run(ask())


def test_a_flood_from_a_host_does_not_lock_out_those_of_it_who_were_known():
    async def ask() -> None:
        now = [0.0]
        access = Access(a_cluster(), clock=lambda: now[0])
        await access.reporter("secret-pod", "ipv4:127.0.0.1")
        now[0] = module.KNOWN_SECONDS + 1
        for number in range(3000):
            with pytest.raises(RefusedError):
                await access.reporter(f"made-up-{number}", "ipv4:127.0.0.1")
        assert (await access.reporter("secret-pod", "ipv4:127.0.0.1")).key == JobKey("team", "emoji")

    asyncio.run(ask())
