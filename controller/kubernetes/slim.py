"""What is kept of Jobs and pods in the caches: thousands of them must fit into a small memory."""

from __future__ import annotations

from thinwire.controller.kubernetes.resources import Raw

_METADATA = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "labels",
    "annotations",
    "ownerReferences",
    "creationTimestamp",
    "deletionTimestamp",
)
_POD_STATUS = ("phase", "reason", "message", "conditions", "containerStatuses", "initContainerStatuses")
_CONTAINER_STATUS = ("name", "state")


def slim_job(raw: Raw) -> Raw:
    """A Job without its template."""
    spec = {field: raw["spec"][field] for field in ("completions", "suspend") if field in raw["spec"]}
    return {"metadata": _metadata(raw), "spec": spec, "status": raw.get("status", {})}


def slim_pod(raw: Raw) -> Raw:
    """A pod's node and how it fares."""
    status = {field: raw["status"][field] for field in _POD_STATUS if field in raw.get("status", {})}
    for field in ("containerStatuses", "initContainerStatuses"):
        if field in status:
            status[field] = [{name: one[name] for name in _CONTAINER_STATUS if name in one} for one in status[field]]
    return {"metadata": _metadata(raw), "spec": {"nodeName": raw["spec"].get("nodeName", "")}, "status": status}


def _metadata(raw: Raw) -> Raw:
    return {field: raw["metadata"][field] for field in _METADATA if field in raw["metadata"]}
