"""A job's life on a real API server: the test plays Job controller and kubelet."""

from __future__ import annotations

import json
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.control_plane import ControlPlane
from tests.cluster.gangs import (
    BATCH,
    CORE,
    complete_gang,
    end_pod,
    fail_gang,
    found,
    gang,
    make_pods,
    run_pods,
    set_pod,
)
from tests.cluster.jobs_api import JobsApi
from tests.cluster.operating import await_state, await_told, condition, status, submit, told
from tests.cluster.operator_process import RUNTIME_IMAGE, OperatorProcess
from tests.controller.waiting import eventually
from thinwire.controller.kubernetes.pod import LONGEST_START_SECONDS
from thinwire.controller.kubernetes.refused_pods import FRESH_SECONDS

pytestmark = pytest.mark.cluster

_MORE_JOBS = 20


def test_a_job_becomes_a_service_a_config_map_and_an_indexed_job(operator: OperatorProcess, jobs: JobsApi) -> None:
    submit(jobs, "children")
    job = gang(jobs, "children-1")
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 2
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["image"] == RUNTIME_IMAGE
    probe = container["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] == LONGEST_START_SECONDS
    assert {"name": "THINWIRE_STARTED_FILE", "value": probe["exec"]["command"][-1]} in container["env"]
    service = found(jobs, f"{CORE}/services/children-1")
    assert service is not None
    assert service["spec"]["clusterIP"] == "None"
    config = found(jobs, f"{CORE}/configmaps/children-1")
    assert config is not None
    spec = json.loads(config["data"]["run_spec.json"])
    assert (spec["model"]["bundled"], spec["output_dir"], spec["attempt"]) == ("emoji", "/output/children", 1)
    assert await_state(jobs, "children", "Starting")["attempt"] == 1


def test_what_a_job_will_do_is_told_before_its_ranks_start(operator: OperatorProcess, jobs: JobsApi) -> None:
    submit(jobs, "planned")
    gang(jobs, "planned-1")
    plan = eventually(lambda: status(jobs, "planned").get("plan"))
    assert (plan["degrees"], plan["ranks"], plan["ranksPerPod"]) == ("ring 2 x ulysses 2", 4, 2)
    assert [link["linkClass"] for link in plan["links"]] == ["intra-node", "inter-node"]
    for link in plan["links"]:
        sizes = [rate["bytesPerStep"] for rate in link["rates"]]
        # From least to most loss: in between a transform rung may lose less in fewer bytes than a scalar one.
        assert (sizes[0], sizes[-1]) == (max(sizes), min(sizes))
        assert sizes[-1] > 0
    sentence = eventually(lambda: told(jobs, "planned").get("Planned"))
    assert sentence.startswith("4 ranks, 2 a node: ring 2 x ulysses 2; intra-node ")
    assert "MB a step whole" in sentence


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
    await_told(jobs, "story", "AttemptStarted", "Unschedulable", "Succeeded")


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
        end_pod(jobs, pods[0], 0)
        end_pod(jobs, pods[1], 137, "", "OOMKilled")
        fail_gang(jobs, name)
    ended = await_state(jobs, "badly", "Failed")
    assert ended["restarts"] == 1
    assert "used more memory than its limit" in ended["message"]
    assert found(jobs, f"{BATCH}/badly-3") is None


def test_a_sentence_of_a_rank_ends_the_job_without_a_restart(operator: OperatorProcess, jobs: JobsApi) -> None:
    submit(jobs, "sentence")
    pods = make_pods(jobs, gang(jobs, "sentence-1"))
    run_pods(jobs, pods)
    end_pod(jobs, pods[0], 1, "Traceback (most recent call last): the peer is gone")
    end_pod(jobs, pods[1], 1, "thinwire: spec.model.source.path: expected a model folder, got none; check the path\n")
    fail_gang(jobs, "sentence-1")
    ended = await_state(jobs, "sentence", "Failed")
    assert ended["message"] == "spec.model.source.path: expected a model folder, got none; check the path"
    assert condition(jobs, "sentence", "Failed")["reason"] == "BadInput"
    assert (ended["attempt"], ended["restarts"]) == (1, 0)


def test_an_image_that_cannot_be_pulled_is_named_with_a_remedy(operator: OperatorProcess, jobs: JobsApi) -> None:
    submit(jobs, "no-image")
    pods = make_pods(jobs, gang(jobs, "no-image-1"))
    waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "nobody/has:it"'}
    container = {"name": "rank", "ready": False, "restartCount": 0, "image": "x", "imageID": ""}
    set_pod(jobs, pods[1], phase="Pending", containerStatuses=[{**container, "state": {"waiting": waiting}}])
    eventually(lambda: condition(jobs, "no-image", "PodsReady")["reason"] == "ImagePullBackOff")
    assert "check the image's name" in eventually(lambda: told(jobs, "no-image").get("ImagePullBackOff"))
    eventually(lambda: "nobody/has:it" in jobs.get("no-image")["status"]["message"])


def test_pods_that_are_refused_are_told_of(operator: OperatorProcess, jobs: JobsApi) -> None:
    submit(jobs, "refused-pods")
    job = gang(jobs, "refused-pods-1")
    said = 'pods "refused-pods-1-0-x" is forbidden: violates PodSecurity "restricted:latest"'
    about = {"kind": "Job", "name": "refused-pods-1", "namespace": "default", "uid": job["metadata"]["uid"]}
    event = {"metadata": {"name": "refused-pods.1"}, "involvedObject": about, "reason": "FailedCreate", "message": said}
    jobs.call("POST", f"{CORE}/events", event)
    eventually(lambda: condition(jobs, "refused-pods", "PodsReady")["reason"] == "PodsRefused")
    assert "restricted:latest" in condition(jobs, "refused-pods", "PodsReady")["message"]


def test_what_somebody_else_writes_into_the_status_is_put_right(operator: OperatorProcess, jobs: JobsApi) -> None:
    submit(jobs, "conflict")
    gang(jobs, "conflict-1")
    await_state(jobs, "conflict", "Starting")
    jobs.patch_status("conflict", {"state": "Succeeded", "restarts": 7})
    eventually(lambda: jobs.get("conflict")["status"].get("restarts") == 0)
    assert jobs.get("conflict")["status"]["state"] == "Starting"


def test_another_job_costs_no_list_of_those_that_are_there(
    operator: OperatorProcess, jobs: JobsApi, plane: ControlPlane
) -> None:
    submit(jobs, "counted-in")
    gang(jobs, "counted-in-1")
    before, began = lists(plane), time.monotonic()
    for number in range(_MORE_JOBS):
        submit(jobs, f"more-{number}")
    for number in range(_MORE_JOBS):
        gang(jobs, f"more-{number}-1")
        await_state(jobs, f"more-{number}", "Starting")
    after, lasted = lists(plane), time.monotonic() - began
    assert after["jobs"] == before["jobs"]
    # Pods that do not come are asked after for all jobs at once.
    assert after["events"] - before["events"] <= 2 + lasted / FRESH_SECONDS


def lists(plane: ControlPlane) -> dict[str, int]:
    """How many lists of Jobs, and of core events, the API server has answered so far."""
    with plane.api_client() as api_client:
        headers = {"authorization": f"Bearer {plane.token}"}
        page = api_client.call_api("GET", f"{plane.url}/metrics", header_params=headers).read().decode()
    counted = {"jobs": 0, "events": 0}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            kind = sample.labels.get("resource", "")
            wanted = (sample.name, sample.labels.get("verb"), sample.labels.get("group"))
            if wanted == ("apiserver_request_total", "LIST", {"jobs": "batch", "events": ""}.get(kind)):
                counted[kind] += int(sample.value)
    return counted
