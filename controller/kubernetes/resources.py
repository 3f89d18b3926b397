"""The kinds of objects that the controller speaks of, and what it reads in their raw form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Raw = dict[str, Any]

JOB_NAME_LABEL = "thinwire.dev/job-name"
ATTEMPT_LABEL = "thinwire.dev/attempt"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
APPLICATION_LABELS = {"app.kubernetes.io/name": "thinwire"}


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of namespaced object and where an API server keeps it."""

    group: str
    version: str
    plural: str
    kind: str

    @property
    def api_version(self) -> str:
        """Group and version as an object writes them."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Path of a collection (of all namespaces without one), or of an object or its subresource."""
        base = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        parts = [base, *(("namespaces", namespace) if namespace else ()), self.plural, name, subresource]
        return "/".join(part for part in parts if part)


DIFFUSION_JOBS = Resource("thinwire.dev", "v1alpha1", "diffusionjobs", "DiffusionJob")
JOBS = Resource("batch", "v1", "jobs", "Job")
PODS = Resource("", "v1", "pods", "Pod")
SERVICES = Resource("", "v1", "services", "Service")
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
CLAIMS = Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
EVENTS = Resource("events.k8s.io", "v1", "events", "Event")
CORE_EVENTS = Resource("", "v1", "events", "Event")


def name_of(raw: Raw) -> str:
    """Name of an object."""
    return str(raw["metadata"]["name"])


def namespace_of(raw: Raw) -> str:
    """Namespace of an object; empty for one without."""
    return str(raw["metadata"].get("namespace", ""))


def uid_of(raw: Raw) -> str:
    """What tells an object from an earlier one of the same name."""
    return str(raw["metadata"]["uid"])


def label_of(raw: Raw, label: str) -> str:
    """Value of a label; empty where there is none."""
    return str((raw["metadata"].get("labels") or {}).get(label, ""))


def controlled_by(raw: Raw, uid: str) -> bool:
    """Whether the object with this uid is the controlling owner."""
    owners = raw["metadata"].get("ownerReferences") or ()
    return any(owner.get("controller") and owner.get("uid") == uid for owner in owners)


def condition_of(raw: Raw, kind: str) -> Raw | None:
    """The condition of this type if it holds."""
    conditions: list[Raw] = raw.get("status", {}).get("conditions") or []
    return next((one for one in conditions if one["type"] == kind and one["status"] == "True"), None)
