"""A user's pod template laid over thinwire's: maps merge, lists whose entries have names merge by name, others grow."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

_KEYS = {"volumeMounts": "mountPath", "ports": "containerPort", "hostAliases": "ip"}
_REPLACED = ("command", "args")


def merged(base: Any, over: Any, field: str = "") -> Any:
    """`base` with `over` laid over it; neither is changed. A null in `over` takes a field away."""
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        result = {name: deepcopy(value) for name, value in base.items() if over.get(name, value) is not None}
        for name, value in over.items():
            if value is not None:
                result[name] = merged(base[name], value, name) if name in base else deepcopy(value)
        return result
    if isinstance(base, list) and isinstance(over, list) and field not in _REPLACED:
        return _merged_lists(base, over, _KEYS.get(field, "name"))
    return deepcopy(over)


def _merged_lists(base: list[Any], over: list[Any], key: str) -> list[Any]:
    result = deepcopy(base)
    places = {entry[key]: place for place, entry in enumerate(base) if isinstance(entry, Mapping) and key in entry}
    for entry in over:
        name = entry.get(key) if isinstance(entry, Mapping) else None
        if name in places:
            result[places[name]] = merged(result[places[name]], entry)
        elif entry not in result:
            result.append(deepcopy(entry))
    return result
