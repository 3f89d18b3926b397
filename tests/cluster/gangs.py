"""What controller manager and kubelet would do to a gang, done by the test through the real API: pods that start,
run and end, Jobs that complete or fail.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tests.cluster.jobs_api import JobsApi, Refused
from tests.controller.waiting import eventually

Raw = dict[str, Any]
BATCH = "/apis/batch/v1/namespaces/default/jobs"
CORE = "/api/v1/namespaces/default"


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def found(jobs: JobsApi, path: str) -> Raw | None:
    """The object at a path, or None."""
    try:
        return jobs.call("GET", path)
    except Refused as refused:
        if refused.status == 404:
            return None
        raise


def gang(jobs: JobsApi, name: str) -> Raw:
    """The Job of an attempt, as soon as it is there."""
    return eventually(lambda: found(jobs, f"{BATCH}/{name}"))


def make_pods(jobs: JobsApi, job: Raw) -> list[str]:
    """Create the pods that the Job controller would, running; return their names."""
    template, name = job["spec"]["template"], job["metadata"]["name"]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job["metadata"]["uid"], "controller": True}
    names = []
    for index in range(job["spec"]["completions"]):
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                **template["metadata"],
                "name": f"{name}-{index}",
                "namespace": "default",
                "ownerReferences": [owner],
                "annotations": {"batch.kubernetes.io/job-completion-index": str(index)},
            },
            "spec": {**template["spec"], "hostname": f"{name}-{index}"},
        }
        jobs.call("POST", f"{CORE}/pods", pod)
        names.append(f"{name}-{index}")
    return names


def set_pod(jobs: JobsApi, name: str, **status: Any) -> None:
    """What a kubelet says of a pod."""
    jobs.call("PATCH", f"{CORE}/pods/{name}/status", {"status": status})


def run_pods(jobs: JobsApi, names: list[str]) -> None:
    for name in names:
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": now()}
        set_pod(jobs, name, phase="Running", conditions=[ready])


def end_pod(jobs: JobsApi, name: str, code: int, message: str = "", reason: str = "Error") -> None:
    """A pod whose container has ended."""
    ended = {"exitCode": code, "reason": reason, "message": message, "finishedAt": now(), "startedAt": now()}
    container = {
        "name": "rank",
        "ready": False,
        "restartCount": 0,
        "image": "x",
        "imageID": "x",
        "state": {"terminated": ended},
    }
    set_pod(jobs, name, phase="Failed" if code else "Succeeded", containerStatuses=[container])


def fail_gang(jobs: JobsApi, name: str) -> None:
    """What the Job controller says once every pod of a failed gang has ended."""
    conditions = [
        {
            "type": kind,
            "status": "True",
            "reason": "PodFailurePolicy",
            "message": "a pod failed",
            "lastTransitionTime": now(),
        }
        for kind in ("FailureTarget", "Failed")
    ]
    status = {"startTime": now(), "failed": 1, "conditions": conditions, "active": 0, "terminating": 0}
    jobs.call("PATCH", f"{BATCH}/{name}/status", {"status": status})


def complete_gang(jobs: JobsApi, name: str) -> None:
    """What the Job controller says once every pod has succeeded."""
    pods = gang(jobs, name)["spec"]["completions"]
    jobs.call("PATCH", f"{BATCH}/{name}/status", {"status": {"startTime": now(), "active": 0}})
    conditions = [
        {"type": kind, "status": "True", "reason": "CompletionsReached", "lastTransitionTime": now()}
        for kind in ("SuccessCriteriaMet", "Complete")
    ]
    status = {
        "succeeded": pods,
        "completedIndexes": f"0-{pods - 1}" if pods > 1 else "0",
        "completionTime": now(),
        "conditions": conditions,
    }
    jobs.call("PATCH", f"{BATCH}/{name}/status", {"status": status})
