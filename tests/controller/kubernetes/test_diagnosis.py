from __future__ import annotations

from typing import Any

import pytest

from thinwire.controller.kubernetes.attempts import attempt_of
from thinwire.controller.kubernetes.diagnosis import ended_by, waits_for
from thinwire.controller.plan import BAD_INPUT, Attempt, StopReason

TIME = "2026-01-02T03:04:05Z"
TORCHRUN = """
Root Cause (first observed failure):
[0]:
  time      : 2026-01-02_03:04:05
  host      : emoji-1-0
  rank      : 3 (local_rank: 1)
  exitcode  : -9 (pid: 42)
  error_file: <N/A>
  traceback : Signal 9 (SIGKILL) received by PID 42
"""


def job(*conditions: str, number: int = 1, **more: Any) -> dict[str, Any]:
    held = [
        {"type": one, "status": "True", "reason": "PodFailurePolicy", "message": "why", "lastTransitionTime": TIME}
        for one in conditions
    ]
    metadata = {"name": f"emoji-{number}", "labels": {"thinwire.dev/attempt": str(number)}, **more.pop("metadata", {})}
    return {"metadata": metadata, "spec": {"completions": 2, **more}, "status": {"conditions": held}}


def pod(index: int, phase: str = "Failed", **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": f"emoji-1-{index}"}, "status": {"phase": phase, **status}}


def ended(index: int, code: int, message: str = "", reason: str = "Error", at: str = TIME) -> dict[str, Any]:
    state = {"terminated": {"exitCode": code, "message": message, "reason": reason, "finishedAt": at}}
    return pod(index, containerStatuses=[{"name": "rank", "state": state}])


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    return pod(0, "Pending", containerStatuses=[{"name": "rank", "state": state}])


DISRUPTED = {
    "type": "DisruptionTarget",
    "status": "True",
    "reason": "PreemptionByScheduler",
    "message": "preempting to accommodate a higher priority pod",
    "lastTransitionTime": TIME,
}

ENDINGS = {
    "a sentence of any rank is the cause, and not to be tried again": (
        [ended(0, 1, "Traceback", at="2026-01-01T00:00:00Z"), ended(1, 1, "thinwire: spec.gpus: too few; add some\n")],
        ("BadInput", "spec.gpus: too few; add some", 2),
    ),
    "torchrun's summary names the rank": (
        [ended(0, 1, TORCHRUN)],
        ("RankFailed", "rank 3 in pod emoji-1-0 was ended by SIGKILL; `kubectl logs` has what it said", 1),
    ),
    "the last error in the log is told": (
        [ended(0, 1, "x\nValueError: no such thing\ntorch.distributed.ChildFailedError: \n")],
        ("Error", "pod emoji-1-0 ended with exit code 1: ValueError: no such thing", 1),
    ),
    "memory": (
        [ended(1, 137, reason="OOMKilled")],
        (
            "OOMKilled",
            "pod emoji-1-1 used more memory than its limit; raise resources.limits.memory of container rank in "
            "spec.podTemplate, or spread the job over more ranks",
            1,
        ),
    ),
    "the pod that ended first": (
        [ended(0, 1, at="2026-01-02T03:04:06Z"), ended(1, 143, at=TIME)],
        ("Error", "pod emoji-1-1 was ended by SIGTERM; `kubectl logs` has what it said", 1),
    ),
    "preemption": (
        [pod(0, conditions=[DISRUPTED])],
        (
            "PreemptionByScheduler",
            "pod emoji-1-0 was taken away: preempting to accommodate a higher priority pod",
            1,
        ),
    ),
    "a pod that failed as a whole": (
        [pod(1, reason="Evicted", message="The node was low on resource: memory.")],
        ("Evicted", "pod emoji-1-1 failed, Evicted: The node was low on resource: memory.", 1),
    ),
    "pods that are gone": ([], ("PodFailurePolicy", "why; the pods are gone, their logs with them", 1)),
}


@pytest.mark.parametrize(("pods", "expected"), ENDINGS.values(), ids=ENDINGS.keys())
def test_why_a_gang_ended(pods: list[dict[str, Any]], expected: tuple[str, str, int]):
    cause = ended_by(job("Failed"), pods)
    assert (cause.reason, cause.message, cause.exit_code) == expected


UNSCHEDULABLE = pod(
    0,
    "Pending",
    conditions=[
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
        }
    ],
)

WAITS = {
    "no node": (
        job(),
        [UNSCHEDULABLE],
        (
            "Unschedulable",
            "pod emoji-1-0 has no node: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu; "
            "add such a node, free one, or ask for less",
        ),
    ),
    "no image": (
        job(),
        [waiting("ErrImagePull", "not found.")],
        (
            "ErrImagePull",
            "pod emoji-1-0 cannot start, ErrImagePull: not found; "
            "check the image's name and imagePullSecrets in spec.podTemplate; the pull is tried again",
        ),
    ),
    "a secret that is not there": (
        job(),
        [waiting("CreateContainerConfigError", 'secret "token" not found')],
        (
            "CreateContainerConfigError",
            'pod emoji-1-0 cannot start, CreateContainerConfigError: secret "token" not found; '
            "create what it names; the pod goes on by itself",
        ),
    ),
    "a queue": (
        job(suspend=True, metadata={"labels": {"kueue.x-k8s.io/queue-name": "main"}}),
        [],
        (
            "AwaitingAdmission",
            "queue main has not admitted Job emoji-1; `kubectl describe workload` says what is short",
        ),
    ),
    "containers that are being created": (job(), [waiting("ContainerCreating")], None),
    "pods that run": (job(), [pod(0, "Running")], None),
}


@pytest.mark.parametrize(("raw", "pods", "expected"), WAITS.values(), ids=WAITS.keys())
def test_what_a_gang_waits_for(raw: dict[str, Any], pods: list[dict[str, Any]], expected: tuple[str, str] | None):
    cause = waits_for(raw, pods)
    assert (cause and (cause.reason, cause.message)) == expected


ATTEMPTS = {
    "complete": (job("SuccessCriteriaMet", "Complete"), [], 0, None, False),
    "failed": (job("FailureTarget", "Failed"), [ended(0, 1)], 1, None, False),
    "failed for good": (job("FailureTarget", "Failed"), [ended(0, 1, "thinwire: no")], 2, None, False),
    "failing is not failed while pods live": (job("FailureTarget"), [ended(0, 1)], None, None, False),
    "running": (job(), [pod(0, "Running")], None, None, False),
    "held": (job(suspend=True), [], None, None, True),
    "being deleted": (
        job(metadata={"deletionTimestamp": TIME, "annotations": {"thinwire.dev/stopped-because": "suspended"}}),
        [],
        None,
        StopReason.SUSPENDED,
        False,
    ),
    "being deleted by somebody else": (
        job(metadata={"deletionTimestamp": TIME}),
        [],
        None,
        StopReason.SUPERSEDED,
        False,
    ),
}


@pytest.mark.parametrize(("raw", "pods", "code", "stop", "held"), ATTEMPTS.values(), ids=ATTEMPTS.keys())
def test_an_attempt_is_read_from_its_job(
    raw: dict[str, Any], pods: list[dict[str, Any]], code: int | None, stop: StopReason | None, held: bool
):
    raw["metadata"]["labels"] = {"thinwire.dev/attempt": "1"} | raw["metadata"].get("labels", {})
    attempt: Attempt = attempt_of(raw, pods)
    assert (attempt.number, attempt.exit_code, attempt.stop, attempt.held) == (1, code, stop, held)


def test_a_gang_whose_pods_do_not_end_says_which_and_where():
    lost = pod(0, "Running", conditions=[DISRUPTED])
    lost["spec"] = {"nodeName": "node-7"}
    attempt = attempt_of(job("FailureTarget"), [lost, ended(1, 1)])
    assert (attempt.exit_code, attempt.failing) == (None, True)
    assert "still to end: emoji-1-0 on node-7 (if that node is gone for good" in attempt.message


def test_a_gang_that_is_seen_failed_before_its_pods_are_waits_for_what_they_say():
    behind = attempt_of(job("FailureTarget", "Failed"), [pod(0, "Running"), ended(1, 1)])
    assert (behind.exit_code, behind.failing) == (None, True)
    said = attempt_of(job("FailureTarget", "Failed"), [ended(0, 1, "thinwire: no model"), ended(1, 1)])
    assert (said.exit_code, said.failing) == (BAD_INPUT, False)
