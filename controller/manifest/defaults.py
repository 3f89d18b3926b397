"""Defaults as the API server sets them: before validation, and only inside objects that are there."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from thinwire.controller.manifest.schema import Schema, root_schema


def defaulted(raw: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of `raw` with the CRD's defaults; a null where none is allowed counts as absent."""
    result = deepcopy(raw)
    _fill(result, root_schema())
    return result


def _fill(value: Any, schema: Schema) -> None:
    if isinstance(value, dict):
        for name, child in schema.get("properties", {}).items():
            is_absent = value.get(name, None) is None and not (name in value and child.get("nullable", False))
            if is_absent:
                value.pop(name, None)
                if "default" in child:
                    value[name] = deepcopy(child["default"])
            if name in value:
                _fill(value[name], child)
        additional = schema.get("additionalProperties")
        if isinstance(additional, dict):
            for entry in value.values():
                _fill(entry, additional)
    elif isinstance(value, list):
        for entry in value:
            _fill(entry, schema.get("items", {}))
