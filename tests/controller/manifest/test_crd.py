"""The CRD's own file: what an API server asks of it, as far as it can be told without one, and what we ask of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import cel
import pytest

from thinwire.controller.manifest.defaults import defaulted
from thinwire.controller.manifest.openapi import shape_refusals
from thinwire.controller.manifest.refusal import Refusal
from thinwire.controller.manifest.schema import Schema, api_version, crd, kind, root_schema

Node = tuple[str, Schema]


def nodes(schema: Schema, path: str = "") -> Iterator[Node]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from nodes(schema["additionalProperties"], f"{path}.*")


NODES = list(nodes(root_schema()))
OURS = [(path, schema) for path, schema in NODES if path not in ("", ".apiVersion", ".kind", ".metadata")]
BOUNDED = [(path, schema) for path, schema in OURS if path.startswith(".spec")]


def ids(chosen: list[Node]) -> list[str]:
    return [path for path, _ in chosen]


def test_group_kind_and_names_agree() -> None:
    spec = crd()["spec"]
    assert crd()["metadata"]["name"] == f"{spec['names']['plural']}.{spec['group']}"
    assert (api_version(), kind()) == ("thinwire.dev/v1alpha1", "DiffusionJob")
    assert spec["names"]["shortNames"] == ["dj"]
    assert [version["storage"] for version in spec["versions"]] == [True]
    assert spec["versions"][0]["subresources"] == {"status": {}}


@pytest.mark.parametrize(("path", "schema"), OURS, ids=ids(OURS))
def test_every_field_is_described_and_typed_without_fractions(path: str, schema: Schema) -> None:
    is_open_map = path.endswith(".*")
    assert is_open_map or schema["description"].strip()
    assert schema["type"] in ("object", "array", "string", "integer", "boolean")
    assert set(schema) <= {
        "description", "type", "properties", "required", "items", "additionalProperties", "enum", "default", "format",
        "minimum", "maximum", "multipleOf", "minLength", "maxLength", "pattern", "maxItems", "maxProperties",
        "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-validations",
        "x-kubernetes-preserve-unknown-fields",
    }  # fmt: skip


@pytest.mark.parametrize(("path", "schema"), BOUNDED, ids=ids(BOUNDED))
def test_everything_that_a_user_writes_is_bounded(path: str, schema: Schema) -> None:
    match schema["type"]:
        case "string":
            assert "maxLength" in schema or "enum" in schema
        case "integer":
            assert "minimum" in schema
            assert "maximum" in schema
        case "array":
            assert "maxItems" in schema
            if schema.get("x-kubernetes-list-type") == "map":
                assert set(schema["x-kubernetes-list-map-keys"]) <= set(schema["items"]["required"])
        case "object" if "additionalProperties" in schema:
            assert "maxProperties" in schema
        case _:
            pass
    assert set(schema.get("required", ())) <= set(schema.get("properties", {}))


@pytest.mark.parametrize(("path", "schema"), OURS, ids=ids(OURS))
def test_patterns_are_whole_and_compile_wherever_they_are_read(path: str, schema: Schema) -> None:
    pattern = schema.get("pattern")
    if pattern is not None:
        assert re.fullmatch(r"\^.*\$", pattern)
        assert cel.evaluate("'x'.matches(p)", {"p": pattern}) in (True, False)


def test_defaults_obey_the_schema_and_hold_no_rule_of_their_own() -> None:
    for path, schema in NODES:
        if isinstance(schema.get("default"), dict):
            # An API server holds an object's rules against its default before the defaults inside it are set.
            assert "x-kubernetes-validations" not in schema, path
    smallest = {
        "apiVersion": api_version(),
        "kind": kind(),
        "metadata": {"name": "a"},
        "spec": {"model": {"source": {}}, "gpus": 1, "generation": {}},
    }
    refusals, _ = shape_refusals(defaulted(smallest))
    assert refusals == []


RULES = [(path, rule) for path, schema in NODES for rule in schema.get("x-kubernetes-validations", ())]


@pytest.mark.parametrize(("path", "rule"), RULES, ids=[f"{path}: {rule['rule'][:40]}" for path, rule in RULES])
def test_every_rule_speaks_plainly_of_a_field_that_there_is(path: str, rule: dict[str, str]) -> None:
    standard = {"has", "size", "string", "filter", "map", "matches", "startsWith"}
    for expression in (rule["rule"], rule.get("messageExpression", "true")):
        called = {name for name in cel.compile(expression).functions() if name.isalpha()}
        assert called <= standard
        # A bare string(n) in a sum is endless for an API server's cost estimate.
        assert not re.search(r"\+ *string\(|string\([^()]*\) *\+", expression)
    fields = dict(NODES)
    target = path + rule.get("fieldPath", "")
    assert target in fields
    if "message" in rule:
        assert Refusal.of("x", rule["message"])
        assert "\n" not in rule["message"]
        assert len(rule["message"]) <= 2048
    assert {"message", "messageExpression"} & set(rule)


def test_every_printed_column_is_a_field() -> None:
    known = {path for path, _ in NODES} | {".metadata.creationTimestamp"}
    columns: list[dict[str, Any]] = crd()["spec"]["versions"][0]["additionalPrinterColumns"]
    assert {column["jsonPath"] for column in columns} <= known
    first = [column["name"] for column in columns if not column.get("priority")]
    assert first == ["State", "Progress", "Millibits", "Mbit/s", "Age"]
