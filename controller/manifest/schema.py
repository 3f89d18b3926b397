"""The CRD's file: the only schema of a DiffusionJob."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

Schema = Mapping[str, Any]


@cache
def crd() -> Schema:
    """Read the packaged CustomResourceDefinition."""
    text = files("thinwire.controller.manifest").joinpath("diffusionjobs.crd.yaml").read_text(encoding="utf-8")
    loaded: Schema = yaml.safe_load(text)
    return loaded


def kind() -> str:
    """Return the resource's kind."""
    return str(crd()["spec"]["names"]["kind"])


def api_version() -> str:
    """Return group and version as a manifest writes them."""
    return f"{crd()['spec']['group']}/{crd()['spec']['versions'][0]['name']}"


def root_schema() -> Schema:
    """Return the structural OpenAPI schema of the whole object."""
    schema: Schema = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def schema_at(schema: Schema, path: tuple[str | int, ...]) -> Schema:
    """Return the schema of the value at `path`; an empty one where the CRD says nothing."""
    for step in path:
        if isinstance(step, int):
            schema = schema.get("items", {})
        else:
            additional = schema.get("additionalProperties", {})
            schema = schema.get("properties", {}).get(step, additional if isinstance(additional, dict) else {})
    return schema


def dotted(path: tuple[str | int, ...]) -> str:
    """Write a path as Kubernetes does: spec.generation.prompts[0].name."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".") or "file"
