"""Two controllers and one Lease on a real API server: one works, the other takes over."""

from __future__ import annotations

import urllib.error

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.cluster.jobs_api import JobsApi
from tests.cluster.operator_process import OperatorProcess, operator_process
from tests.controller.waiting import eventually

pytestmark = pytest.mark.cluster


def holder(jobs: JobsApi) -> str:
    leases = jobs.call("GET", "/apis/coordination.k8s.io/v1/namespaces/default/leases")["items"]
    return str(leases[0]["spec"].get("holderIdentity", "")) if leases else ""


def answered(replica: OperatorProcess) -> bool:
    try:
        return replica.http("/healthz") == "ok\n"
    except urllib.error.URLError:
        return False


def test_one_replica_works_and_the_other_takes_over_when_it_is_killed(plane: ControlPlane, jobs: JobsApi) -> None:
    lease = ("--own-namespace", "default", "--lease-name", "takeover")
    with operator_process(plane, *lease) as first:
        eventually(lambda: first.logged("controller_ready"))
        before = holder(jobs)
        assert before
        with operator_process(plane, *lease) as second:
            eventually(lambda: answered(second))
            assert second.http("/readyz") != "ok\n"
            assert not second.logged("controller_ready")
            first.kill()
            eventually(lambda: second.logged("controller_ready"))
            assert holder(jobs) not in ("", before)
            assert second.http("/readyz") == "ok\n"
