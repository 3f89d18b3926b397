"""What an API server asks of metadata, which a CRD's schema does not say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thinwire.controller.manifest.refusal import Refusal
from thinwire.controller.manifest.rules import matches
from thinwire.controller.manifest.schema import api_version, kind

_FIELDS = (
    "name",
    "namespace",
    "labels",
    "annotations",
    "generateName",
    "finalizers",
    "ownerReferences",
    # Set by an API server; `kubectl get -o yaml` writes them.
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
)
_NAMESPACE = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"


def type_refusals(raw: Mapping[str, Any]) -> list[Refusal]:
    """Say whether `raw` is another kind of object altogether."""
    wanted = {"apiVersion": api_version(), "kind": kind()}
    found = []
    for field, expected in wanted.items():
        if raw.get(field) != expected:
            got = "nothing" if raw.get(field) is None else str(raw[field])
            found.append(Refusal(field, expected, got, f'write "{field}: {expected}"'))
    return found


def metadata_refusals(raw: Mapping[str, Any]) -> list[Refusal]:
    """Check name, namespace, labels and annotations; anything not a map is the schema's to refuse."""
    metadata = raw.get("metadata")
    if metadata is None:
        return [Refusal("metadata.name", "a value", "none", "add it: name of the job")]
    if not isinstance(metadata, dict):
        return []
    found = []
    for name in metadata:
        if name not in _FIELDS:
            field, expected = f"metadata.{name}", "one of name, namespace, labels, annotations"
            found.append(Refusal(field, expected, "an unknown field", "remove it"))
    if metadata.get("name") is None:
        found.append(Refusal("metadata.name", "a value", "none", "add it: name of the job"))
    namespace = metadata.get("namespace")
    if namespace is not None and not (isinstance(namespace, str) and matches(_NAMESPACE, namespace)):
        remedy = "write the name of a namespace, or remove it for the present one"
        found.append(Refusal("metadata.namespace", "a DNS label", str(namespace), remedy))
    for field in ("labels", "annotations"):
        found.extend(_text_map(f"metadata.{field}", metadata.get(field)))
    return found


def _text_map(field: str, value: Any) -> list[Refusal]:
    if value is None:
        return []
    if not isinstance(value, dict):
        return [Refusal(field, "a map", str(value), "write one KEY: VALUE to a line")]
    return [
        Refusal(f"{field}.{key}", "a string", str(entry), "put it in quotes")
        for key, entry in value.items()
        if not isinstance(entry, str)
    ]
