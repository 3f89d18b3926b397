"""What a user of the operator does and sees: jobs are submitted, states awaited, events and conditions read."""

from __future__ import annotations

from typing import Any

from tests.cluster.gangs import CORE, found
from tests.cluster.jobs_api import JobsApi
from tests.controller.manifest.manifests import manifest
from tests.controller.waiting import eventually

OUTPUT = {"persistentVolumeClaim": {"claimName": "pictures"}}
EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events"


def make_surroundings(jobs: JobsApi) -> None:
    """What a cluster has before any job: the pods' account, which a controller manager makes, and a volume's claim."""
    if found(jobs, f"{CORE}/serviceaccounts/default") is None:
        jobs.call("POST", f"{CORE}/serviceaccounts", {"metadata": {"name": "default"}})
    make_claim(jobs, "pictures")


def make_claim(jobs: JobsApi, name: str) -> None:
    path = f"{CORE}/persistentvolumeclaims"
    if found(jobs, f"{path}/{name}") is None:
        spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
        jobs.call("POST", path, {"metadata": {"name": name}, "spec": spec})


def submit(jobs: JobsApi, name: str, changes: dict[str, Any] | None = None) -> None:
    jobs.create(manifest({"metadata.name": name, "spec.gpusPerPod": 2, "spec.output": OUTPUT, **(changes or {})}))


def status(jobs: JobsApi, name: str) -> dict[str, Any]:
    known: dict[str, Any] = jobs.get(name).get("status", {})
    return known


def await_state(jobs: JobsApi, name: str, state: str) -> dict[str, Any]:
    """Wait until the job says so itself."""
    eventually(lambda: status(jobs, name).get("state") == state)
    return status(jobs, name)


def condition(jobs: JobsApi, name: str, kind: str) -> dict[str, Any]:
    known = {one["type"]: one for one in status(jobs, name).get("conditions", ())}
    return known.get(kind, {"message": "", "status": "", "reason": ""})


def await_explained(jobs: JobsApi, name: str, kind: str, reason: str, *words: str) -> None:
    """Wait until the job's condition of this kind and an event both have this reason, and say all of these words."""

    def explained(sentence: str) -> bool:
        return all(word in sentence for word in words)

    def shown() -> bool:
        now = condition(jobs, name, kind)
        return now["reason"] == reason and explained(now["message"])

    eventually(shown)
    eventually(lambda: any(explained(note) for note in notes(jobs, name, reason)))


def await_told(jobs: JobsApi, name: str, *reasons: str) -> None:
    """Wait for events with each of these reasons: they are written one after the other, behind the status."""
    eventually(lambda: set(reasons) <= told(jobs, name).keys())


def told(jobs: JobsApi, name: str) -> dict[str, str]:
    """Events of a job: what was said for each reason."""
    return {one["reason"]: one["note"] for one in events_of(jobs, name)}


def notes(jobs: JobsApi, name: str, reason: str) -> list[str]:
    """What all of a job's events with this reason say."""
    return [one["note"] for one in events_of(jobs, name) if one["reason"] == reason]


def events_of(jobs: JobsApi, name: str) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = jobs.call("GET", EVENTS)["items"]
    return [one for one in events if one["regarding"]["name"] == name]
