"""Controllers and API servers that die, and rights that are missing: every job goes on as if nothing had been."""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.binaries import found as found_binaries
from tests.cluster.control_plane import ControlPlane, control_plane
from tests.cluster.gangs import BATCH, CORE, complete_gang, fail_gang, found, gang, make_pods, run_pods
from tests.cluster.jobs_api import JobsApi
from tests.cluster.operating import await_state, await_told, condition, make_surroundings, status, submit, told
from tests.cluster.operator_process import OperatorProcess, operator_process
from tests.cluster.outages import compact_etcd, restart_api_server
from tests.cluster.people import People
from tests.cluster.reporting import Rank
from tests.cluster.rights import rights
from tests.controller.waiting import eventually

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def own_plane() -> Iterator[ControlPlane]:
    """An API server that these tests may kill."""
    with control_plane(found_binaries()) as running:
        yield running


@pytest.fixture(scope="module")
def restarted(own_plane: ControlPlane) -> Iterator[contextlib.ExitStack]:
    """What was started again in place of what a test killed; ended with the module."""
    del own_plane
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def jobs(own_plane: ControlPlane) -> Iterator[JobsApi]:  # type: ignore[override]
    with own_plane.api_client() as api_client:
        api = JobsApi(api_client)
        api.install_crd()
        make_surroundings(api)
        yield api


def ready(operator: OperatorProcess) -> OperatorProcess:
    eventually(lambda: operator.logged("controller_ready"))
    return operator


def holder(jobs: JobsApi, lease: str) -> str:
    """Who holds a Lease; empty if nobody does."""
    there = jobs.call("GET", f"/apis/coordination.k8s.io/v1/namespaces/default/leases/{lease}")
    return str(there["spec"].get("holderIdentity", ""))


def gangs_of(jobs: JobsApi, name: str) -> list[str]:
    selector = [("labelSelector", f"thinwire.dev/job-name={name}")]
    return [one["metadata"]["name"] for one in jobs.call("GET", BATCH, query=selector)["items"]]


def test_a_controller_that_comes_later_adopts_what_runs(own_plane: ControlPlane, jobs: JobsApi) -> None:
    with operator_process(own_plane, "--no-leader-elect") as first:
        submit(jobs, "adopted")
        run_pods(jobs, make_pods(jobs, gang(jobs, "adopted-1")))
        with Rank(first, "adopted") as rank:
            rank.steps(4)
            before = await_state(jobs, "adopted", "Running")
        first.kill()
    with operator_process(own_plane, "--no-leader-elect") as second:
        ready(second)
        with Rank(second, "adopted", first_job_step=4) as rank:
            rank.steps(4)
            eventually(lambda: status(jobs, "adopted").get("progress", {}).get("step", 0) >= 8)
        complete_gang(jobs, "adopted-1")
        after = await_state(jobs, "adopted", "Succeeded")
        states = [one["state"] for one in second.logged("job_ended")]
    assert (after["attempt"], after["restarts"]) == (1, 0)
    assert after["startTime"] == before["startTime"]
    assert gangs_of(jobs, "adopted") == ["adopted-1"]
    assert states == ["Succeeded"]
    assert "RateChanged" not in told(jobs, "adopted") or before["state"] == "Running"


def test_what_happened_while_no_controller_lived_is_caught_up_with(own_plane: ControlPlane, jobs: JobsApi) -> None:
    with operator_process(own_plane, "--no-leader-elect") as first:
        submit(jobs, "missed")
        gang(jobs, "missed-1")
        await_state(jobs, "missed", "Starting")
        first.kill()
    fail_gang(jobs, "missed-1")
    submit(jobs, "unseen")
    with operator_process(own_plane, "--no-leader-elect"):
        gang(jobs, "missed-2")
        gang(jobs, "unseen-1")
        eventually(lambda: status(jobs, "missed").get("restarts") == 1)


def test_another_replica_takes_over_when_the_leader_dies(own_plane: ControlPlane, jobs: JobsApi) -> None:
    with operator_process(own_plane) as first:
        ready(first)
        with operator_process(own_plane) as second:
            eventually(lambda: second.logged("controller_started"))
            eventually(lambda: second.answers("/readyz", "waiting for the Lease"))
            before = holder(jobs, "thinwire-controller")
            assert before
            assert not second.logged("controller_ready")
            submit(jobs, "inherited")
            gang(jobs, "inherited-1")
            first.kill()
            ready(second)
            fail_gang(jobs, "inherited-1")
            gang(jobs, "inherited-2")
            assert holder(jobs, "thinwire-controller") not in ("", before)
            assert second.http("/readyz") == "ok\n"


def test_a_leader_that_is_told_to_stop_hands_the_lease_on_at_once(own_plane: ControlPlane, jobs: JobsApi) -> None:
    flags = ("--lease-name", "handed-on")
    with operator_process(own_plane, *flags) as first:
        ready(first)
        with operator_process(own_plane, *flags) as second:
            eventually(lambda: second.logged("controller_started"))
            before = holder(jobs, "handed-on")
            first.process.terminate()
            assert first.process.wait(120) == 0
            # Nobody has to wait for its end: the Lease names the first no more.
            assert holder(jobs, "handed-on") != before
            ready(second)


def test_a_leader_whose_lease_was_taken_ends(own_plane: ControlPlane, jobs: JobsApi) -> None:
    with operator_process(own_plane, "--lease-name", "taken") as leader:
        ready(leader)
        lease = "/apis/coordination.k8s.io/v1/namespaces/default/leases/taken"

        def steal() -> bool:
            jobs.call("PATCH", lease, {"spec": {"holderIdentity": "somebody-else", "leaseDurationSeconds": 3600}})
            return leader.process.poll() is not None

        eventually(steal)
        assert leader.process.returncode == 1
        assert "was not renewed" in leader.logged("controller_ends")[0]["reason"]


def test_jobs_go_on_after_the_api_server_was_killed(
    own_plane: ControlPlane, jobs: JobsApi, restarted: contextlib.ExitStack
) -> None:
    with operator_process(own_plane, "--no-leader-elect") as operator:
        submit(jobs, "survivor")
        run_pods(jobs, make_pods(jobs, gang(jobs, "survivor-1")))
        with Rank(operator, "survivor") as rank:
            rank.steps(4)
            await_state(jobs, "survivor", "Running")
            restart_api_server(own_plane, restarted)
            rank.steps(4)
            eventually(lambda: status_or_nothing(jobs, "survivor").get("progress", {}).get("step", 0) >= 8)
            complete_gang(jobs, "survivor-1")
            await_state(jobs, "survivor", "Succeeded")
            assert operator.process.poll() is None
            assert gangs_of(jobs, "survivor") == ["survivor-1"]


def test_a_watch_whose_version_etcd_has_compacted_away_begins_anew(
    own_plane: ControlPlane, jobs: JobsApi, restarted: contextlib.ExitStack
) -> None:
    with operator_process(own_plane, "--no-leader-elect") as operator:
        submit(jobs, "seen")
        gang(jobs, "seen-1")
        submit(jobs, "to-go", {"spec.runPolicy": {"suspend": True}})
        await_state(jobs, "to-go", "Suspended")
        with asleep(operator):
            # Without its watch cache the server asks etcd itself, which does not know the past any more.
            restart_api_server(own_plane, restarted, "--watch-cache=false")
            eventually(lambda: status_or_nothing(jobs, "seen"))
            fail_gang(jobs, "seen-1")
            submit(jobs, "unwatched")
            jobs.delete("to-go")
            compact_etcd(own_plane)
        gang(jobs, "unwatched-1")
        gang(jobs, "seen-2")
        expired = {line["resource"] for line in operator.logged("watch_expired")}
        assert {"diffusionjobs", "jobs"} <= expired
        eventually(lambda: relists(operator, "diffusionjobs") >= 2)
        eventually(lambda: 'thinwire_controller_jobs{state="Suspended"} 0.0' in operator.http("/metrics"))
        assert operator.process.poll() is None
        assert gangs_of(jobs, "unwatched") == ["unwatched-1"]
        assert sorted(gangs_of(jobs, "seen")) == ["seen-1", "seen-2"]


def test_ranks_that_run_get_the_authority_that_took_the_others_place(own_plane: ControlPlane, jobs: JobsApi) -> None:
    flags = ("--no-leader-elect", "--tls-secret", "thinwire-tls-replaced")
    with operator_process(own_plane, *flags) as operator:
        ready(operator)
        submit(jobs, "introduced")
        run_pods(jobs, make_pods(jobs, gang(jobs, "introduced-1")))
        first = authority(jobs, "introduced-1")
    jobs.call("DELETE", f"{CORE}/secrets/thinwire-tls-replaced")
    with operator_process(own_plane, *flags):
        eventually(lambda: authority(jobs, "introduced-1") != first)
        submit(jobs, "newcomer")
        gang(jobs, "newcomer-1")
        assert authority(jobs, "newcomer-1") == authority(jobs, "introduced-1")


def test_the_rights_of_the_page_are_enough_for_a_whole_job(own_plane: ControlPlane, jobs: JobsApi) -> None:
    people = People(jobs)
    people.account("default", "controller")
    for heading, rules in rights().items():
        people.may("default", "controller", rules, everywhere="own namespace" not in heading)
    token = people.token("default", "controller")
    with operator_process(own_plane, "--lease-name", "least", token=token) as operator:
        submit(jobs, "least", {"spec.runPolicy": {"ttlSecondsAfterFinished": 5}})
        gang(jobs, "least-1")
        fail_gang(jobs, "least-1")
        run_pods(jobs, make_pods(jobs, gang(jobs, "least-2")))
        complete_gang(jobs, "least-2")
        # The job itself may be gone before anybody looks; its events stay.
        await_told(jobs, "least", "AttemptStarted", "Restarting", "Succeeded")
        eventually(lambda: found(jobs, jobs.path("least")) is None)
        refused = [line for line in operator.log.read_text().splitlines() if "orbidden" in line]
    assert refused == []


def test_a_right_that_is_missing_is_told_by_the_job(own_plane: ControlPlane, jobs: JobsApi) -> None:
    people = People(jobs)
    people.account("default", "powerless")
    for heading, rules in rights().items():
        granted = [rule for rule in rules if rule["resources"] != ["services"]]
        people.may("default", "powerless", granted, everywhere="own namespace" not in heading)
    token = people.token("default", "powerless")
    with operator_process(own_plane, "--lease-name", "powerless", token=token):
        submit(jobs, "forbidden")
        eventually(lambda: condition(jobs, "forbidden", "Running")["reason"] == "Forbidden")
        eventually(lambda: "services" in status(jobs, "forbidden").get("message", ""))
        await_told(jobs, "forbidden", "Forbidden")
    jobs.delete("forbidden")


def status_or_nothing(jobs: JobsApi, name: str) -> dict[str, Any]:
    """A job's status, or nothing while the API server is away."""
    try:
        return status(jobs, name)
    except Exception:
        return {}


@contextlib.contextmanager
def asleep(operator: OperatorProcess) -> Iterator[None]:
    """Have a controller see and do nothing for as long as the body runs."""
    operator.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        operator.process.send_signal(signal.SIGCONT)


def relists(operator: OperatorProcess, resource: str) -> float:
    found_line = re.search(rf'relists_total{{resource="{resource}"}} (\S+)', operator.http("/metrics"))
    return float(found_line[1]) if found_line else 0.0


def authority(jobs: JobsApi, attempt: str) -> str:
    return str(jobs.call("GET", f"{CORE}/configmaps/{attempt}")["data"]["ca.crt"])
