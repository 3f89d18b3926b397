"""What a job's podTemplate must not say: the fields that make one gang of its pods are thinwire's to set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from thinwire.controller.manifest.refusal import Refusal

_FIELDS = ("restartPolicy", "subdomain", "hostname", "setHostnameAsFQDN")
_LABELS = ("thinwire.dev/", "batch.kubernetes.io/", "job-name", "controller-uid")
_VARIABLES = ("PET_", "THINWIRE_", "TORCHELASTIC_")
_NAMES = "thinwire-"
_ROOT = "spec.podTemplate"


def template_refusals(template: Mapping[str, Any]) -> list[Refusal]:
    """Every refusal of a podTemplate; none for one that can be merged into the pods."""
    spec = template.get("spec", {})
    if not isinstance(spec, Mapping):
        return [Refusal(f"{_ROOT}.spec", "a map", type(spec).__name__, "write fields of a pod's spec under it")]
    found = [
        Refusal(f"{_ROOT}.spec.{field}", "nothing", repr(spec[field]), "remove it: thinwire sets it")
        for field in _FIELDS
        if field in spec
    ]
    found += [
        Refusal(f"{_ROOT}.metadata.labels", "labels of your own", label, "remove it: thinwire sets it")
        for label in (template.get("metadata") or {}).get("labels") or ()
        if label.startswith(_LABELS)
    ]
    for kind in ("containers", "initContainers", "volumes"):
        found += _of_list(f"{_ROOT}.spec.{kind}", spec.get(kind, []))
    return found


def _of_list(field: str, entries: Any) -> Iterator[Refusal]:
    if not isinstance(entries, list) or not all(isinstance(one, Mapping) and "name" in one for one in entries):
        yield Refusal(field, "a list of entries with a name each", "something else", "give each entry a name")
        return
    for entry in entries:
        name = str(entry["name"])
        if name.startswith(_NAMES):
            yield Refusal(f"{field}[{name}]", f"a name that does not begin with {_NAMES}", name, "rename it")
        for variable in entry.get("env") or ():
            called = str(variable.get("name", "")) if isinstance(variable, Mapping) else ""
            if called.startswith(_VARIABLES):
                expected = f"variables that do not begin with {', '.join(_VARIABLES)}"
                yield Refusal(f"{field}[{name}].env", expected, called, "remove it: thinwire sets it")
