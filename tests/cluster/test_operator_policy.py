"""spec.runPolicy and edits while a job runs, on a real API server."""

from __future__ import annotations

import json

import grpc
import pytest

from tests.cluster.gangs import BATCH, CORE, complete_gang, fail_gang, found, gang, make_pods, run_pods
from tests.cluster.jobs_api import JobsApi, Refused
from tests.cluster.operating import await_state, await_told, condition, status, submit
from tests.cluster.operator_process import OperatorProcess
from tests.cluster.reporting import Rank
from tests.controller.waiting import eventually

pytestmark = pytest.mark.cluster


def test_a_suspended_job_has_no_gang_and_goes_on_with_the_next_attempt(
    operator: OperatorProcess, jobs: JobsApi
) -> None:
    submit(jobs, "pause", {"spec.runPolicy": {"suspend": True}})
    await_state(jobs, "pause", "Suspended")
    assert found(jobs, f"{BATCH}/pause-1") is None
    jobs.patch("pause", {"spec": {"runPolicy": {"suspend": False}}})
    make_pods(jobs, gang(jobs, "pause-1"))
    jobs.patch("pause", {"spec": {"runPolicy": {"suspend": True}}})
    eventually(lambda: "deletionTimestamp" in gang(jobs, "pause-1")["metadata"])
    # A garbage collector takes this finalizer away once the pods are gone.
    jobs.call("PATCH", f"{BATCH}/pause-1", {"metadata": {"finalizers": []}})
    eventually(lambda: condition(jobs, "pause", "Suspended")["status"] == "True")
    jobs.patch("pause", {"spec": {"runPolicy": {"suspend": False}}})
    spec = eventually(lambda: found(jobs, f"{CORE}/configmaps/pause-2"))
    assert spec is not None
    assert json.loads(spec["data"]["run_spec.json"])["attempt"] == 2
    after = await_state(jobs, "pause", "Starting")
    assert (after["attempt"], after["restarts"]) == (2, 0)
    # What only the first attempt needed is gone.
    eventually(lambda: found(jobs, f"{CORE}/configmaps/pause-1") is None)


def test_a_deadline_ends_a_job_that_still_runs(operator: OperatorProcess, jobs: JobsApi) -> None:
    submit(jobs, "late", {"spec.runPolicy": {"activeDeadlineSeconds": 2}})
    gang(jobs, "late-1")
    ended = await_state(jobs, "late", "Failed")
    assert "activeDeadlineSeconds of 2 have passed" in ended["message"]
    eventually(lambda: "deletionTimestamp" in gang(jobs, "late-1")["metadata"])


def test_a_finished_job_is_deleted_after_its_time(operator: OperatorProcess, jobs: JobsApi) -> None:
    submit(jobs, "expiring", {"spec.runPolicy": {"ttlSecondsAfterFinished": 1}})
    run_pods(jobs, make_pods(jobs, gang(jobs, "expiring-1")))
    complete_gang(jobs, "expiring-1")
    eventually(lambda: found(jobs, jobs.path("expiring")) is None)


def test_no_restart_is_given_where_none_is_allowed(operator: OperatorProcess, jobs: JobsApi) -> None:
    submit(jobs, "once", {"spec.runPolicy": {"maxRestarts": 0}})
    gang(jobs, "once-1")
    fail_gang(jobs, "once-1")
    ended = await_state(jobs, "once", "Failed")
    assert "none is left (maxRestarts 0)" in ended["message"]
    assert condition(jobs, "once", "Failed")["status"] == "True"
    await_told(jobs, "once", "Failed")


def test_reports_of_rank_0_fill_the_columns(operator: OperatorProcess, jobs: JobsApi) -> None:
    submit(jobs, "columns")
    run_pods(jobs, make_pods(jobs, gang(jobs, "columns-1")))
    with Rank(operator, "columns") as rank:
        rank.steps(6)
        await_state(jobs, "columns", "Running")
        eventually(lambda: status(jobs, "columns").get("link", {}).get("throughputMegabitsPerSecond"))
        table = jobs.table("columns")
    cells = dict(zip((one["name"] for one in table["columnDefinitions"]), table["rows"][0]["cells"], strict=True))
    assert (cells["State"], cells["Progress"]) == ("Running", "0/2")
    assert cells["Mbit/s"] == pytest.approx(400, rel=0.1)
    assert cells["Millibits"] > 0


def test_an_edit_of_the_rates_limits_reaches_the_ranks(operator: OperatorProcess, jobs: JobsApi) -> None:
    submit(jobs, "edited", {"spec.compression": {"rate": {"minMillibits": 1000, "maxMillibits": 32000}}})
    run_pods(jobs, make_pods(jobs, gang(jobs, "edited-1")))
    with Rank(operator, "edited", bytes_per_second=5e9) as rank:
        rank.steps(8)
        await_state(jobs, "edited", "Running")
        assert rank.millibits == 32000
        jobs.patch("edited", {"spec": {"compression": {"rate": {"maxMillibits": 4500}}}})
        await_told(jobs, "edited", "RateLimitsChanged")
        rank.steps_until(lambda: rank.millibits <= 4500)
        await_told(jobs, "edited", "RateChanged")


def test_a_fixed_rate_moves_with_its_manifest(operator: OperatorProcess, jobs: JobsApi) -> None:
    submit(jobs, "fixed", {"spec.compression": {"mode": "Fixed", "rate": {"minMillibits": 8000, "maxMillibits": 8000}}})
    run_pods(jobs, make_pods(jobs, gang(jobs, "fixed-1")))
    with Rank(operator, "fixed", adaptive=False, millibits=8200) as rank:
        rank.steps(6)
        await_state(jobs, "fixed", "Running")
        jobs.patch("fixed", {"spec": {"compression": {"rate": {"minMillibits": 4000, "maxMillibits": 4000}}}})
        rank.steps_until(lambda: rank.millibits == 4000)


def test_what_cannot_be_honoured_cannot_be_edited(jobs: JobsApi) -> None:
    submit(jobs, "immutable", {"spec.runPolicy": {"suspend": True}})
    for change in (
        {"model": {"source": {"bundled": "other"}}},
        {"gpusPerPod": 4},
        {"accelerator": "nvidia.com/gpu"},
        {"compression": {"warmupSteps": 2}},
        {"generation": {"steps": 9}},
        {"output": {"persistentVolumeClaim": {"claimName": "elsewhere"}}},
        {"podTemplate": {"spec": {"nodeSelector": {"a": "b"}}}},
    ):
        with pytest.raises(Refused, match="make a new job"):
            jobs.patch("immutable", {"spec": change})


def test_a_deleted_job_is_forgotten(operator: OperatorProcess, jobs: JobsApi) -> None:
    submit(jobs, "deleted")
    gang(jobs, "deleted-1")
    jobs.delete("deleted")
    with Rank(operator, "deleted") as rank:
        rank.steps_until(lambda: rank.code() is not None)
        assert rank.code() is grpc.StatusCode.NOT_FOUND
