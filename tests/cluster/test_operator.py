"""The operator on a real API server: the test plays Job controller and kubelet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.cluster.gangs import (
    BATCH,
    CORE,
    complete_gang,
    end_pod,
    fail_gang,
    found,
    gang,
    make_account,
    make_pods,
    run_pods,
    set_pod,
)
from tests.cluster.jobs_api import JobsApi
from tests.cluster.operator_process import RUNTIME_IMAGE, OperatorProcess, operator_process
from tests.controller.manifest.manifests import manifest
from tests.controller.waiting import eventually

pytestmark = pytest.mark.cluster

OUTPUT = {"persistentVolumeClaim": {"claimName": "pictures"}}


@pytest.fixture(scope="module")
def operator(plane: ControlPlane, jobs: JobsApi) -> Iterator[OperatorProcess]:
    make_account(jobs)
    with operator_process(plane, "--no-leader-elect") as running:
        yield running


def submit(jobs: JobsApi, name: str, changes: dict[str, Any] | None = None) -> None:
    jobs.create(manifest({"metadata.name": name, "spec.gpusPerPod": 2, "spec.output": OUTPUT, **(changes or {})}))


def status(jobs: JobsApi, name: str) -> dict[str, Any]:
    found_status: dict[str, Any] = jobs.get(name).get("status", {})
    return found_status


def condition(jobs: JobsApi, name: str, kind: str) -> dict[str, Any]:
    known = {one["type"]: one for one in status(jobs, name).get("conditions", ())}
    return known.get(kind, {"message": "", "status": "", "reason": ""})


def told(jobs: JobsApi, name: str) -> dict[str, str]:
    """Events of a job: what was said for each reason."""
    listed = jobs.call("GET", "/apis/events.k8s.io/v1/namespaces/default/events")["items"]
    return {one["reason"]: one["note"] for one in listed if one["regarding"]["name"] == name}


def await_state(jobs: JobsApi, name: str, state: str) -> dict[str, Any]:
    eventually(lambda: status(jobs, name).get("state") == state, within_seconds=30)
    return status(jobs, name)


def test_a_job_becomes_a_service_a_config_map_and_an_indexed_job(operator: OperatorProcess, jobs: JobsApi) -> None:
    submit(jobs, "children")
    job = gang(jobs, "children-1")
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 2
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["image"] == RUNTIME_IMAGE
    service = found(jobs, f"{CORE}/services/children-1")
    assert service is not None
    assert service["spec"]["clusterIP"] == "None"
    config = found(jobs, f"{CORE}/configmaps/children-1")
    assert config is not None
    spec = json.loads(config["data"]["run_spec.json"])
    assert (spec["model"]["bundled"], spec["output_dir"], spec["attempt"]) == ("emoji", "/output/children", 1)
    assert await_state(jobs, "children", "Starting")["attempt"] == 1


def test_metrics_and_health_are_served(operator: OperatorProcess, jobs: JobsApi) -> None:
    submit(jobs, "counted")
    gang(jobs, "counted-1")
    assert operator.http("/healthz") == operator.http("/readyz") == "ok\n"
    eventually(lambda: 'thinwire_controller_jobs{state="Starting"}' in operator.http("/metrics"))
    assert "thinwire_controller_status_writes_total" in operator.http("/metrics")


def test_a_job_tells_its_story_in_events_and_conditions(operator: OperatorProcess, jobs: JobsApi) -> None:
    submit(jobs, "story")
    pods = make_pods(jobs, gang(jobs, "story-1"))
    no_node = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes: no GPU"}
    set_pod(jobs, pods[0], phase="Pending", conditions=[no_node])
    eventually(lambda: "no GPU" in condition(jobs, "story", "PodsReady")["message"])
    run_pods(jobs, pods)
    eventually(lambda: condition(jobs, "story", "PodsReady")["status"] == "True")
    complete_gang(jobs, "story-1")
    await_state(jobs, "story", "Succeeded")
    assert eventually(lambda: {"AttemptStarted", "Unschedulable", "Succeeded"} <= set(told(jobs, "story")))


def test_a_gang_that_completes_ends_the_job_well(operator: OperatorProcess, jobs: JobsApi) -> None:
    submit(jobs, "well")
    run_pods(jobs, make_pods(jobs, gang(jobs, "well-1")))
    complete_gang(jobs, "well-1")
    ended = await_state(jobs, "well", "Succeeded")
    assert ended["completionTime"] >= ended["startTime"]


def test_a_gang_that_fails_is_started_again_as_a_whole_until_none_is_left(
    operator: OperatorProcess, jobs: JobsApi
) -> None:
    submit(jobs, "badly", {"spec.runPolicy": {"maxRestarts": 1}})
    for attempt in (1, 2):
        name = f"badly-{attempt}"
        pods = make_pods(jobs, gang(jobs, name))
        run_pods(jobs, pods)
        end_pod(jobs, pods[1], 137, "", "OOMKilled")
        fail_gang(jobs, name)
    ended = await_state(jobs, "badly", "Failed")
    assert ended["restarts"] == 1
    assert "used more memory than its limit" in ended["message"]
    assert found(jobs, f"{BATCH}/badly-3") is None
