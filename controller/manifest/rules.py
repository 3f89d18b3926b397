"""The CRD's CEL rules, evaluated where they stand: at objects, lists, their items and single values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import cel

from thinwire.controller.manifest.refusal import Refusal
from thinwire.controller.manifest.schema import Schema, dotted, root_schema

Path = tuple[str | int, ...]
_REFERENCE = re.compile(r"\bself((?:\.\w+)*)")


def broken_rules(
    raw: Mapping[str, Any], blocked: frozenset[Path], before: Mapping[str, Any] | None = None
) -> list[Refusal]:
    """Evaluate every rule on `raw`, which has its defaults.

    A rule is left out where it speaks of something that the schema refused already (`blocked`). An API server
    leaves out none of them, or all: its verdict is the same, its list may be longer or shorter. `before` is the object
    that `raw` replaces: with it the rules on what may change count too.
    """
    return list(_walk(raw, before, root_schema(), (), blocked))


def _walk(value: Any, before: Any, schema: Schema, path: Path, blocked: frozenset[Path]) -> Iterator[Refusal]:
    for rule in schema.get("x-kubernetes-validations", ()):
        if not _speaks_of(rule["rule"], path, blocked):
            yield from _evaluate(rule, value, before, path)
    if isinstance(value, dict):
        for name, child in schema.get("properties", {}).items():
            if name in value:
                old = before.get(name) if isinstance(before, dict) else None
                yield from _walk(value[name], old, child, (*path, name), blocked)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _walk(item, None, schema.get("items", {}), (*path, index), blocked)


def _speaks_of(rule: str, path: Path, blocked: frozenset[Path]) -> bool:
    for reference in _REFERENCE.findall(rule):
        spoken = (*path, *reference.split(".")[1:])
        for wrong in blocked:
            shared = min(len(wrong), len(spoken))
            if wrong[:shared] == spoken[:shared]:
                return True
    return False


def _evaluate(rule: Mapping[str, str], value: Any, before: Any, path: Path) -> Iterator[Refusal]:
    program = _compiled(rule["rule"])
    variables = {"self": value}
    if "oldSelf" in program.variables():
        if before is None:
            return
        variables["oldSelf"] = before
    if program.execute(variables) is True:
        return
    if "messageExpression" in rule:
        sentence = str(_compiled(rule["messageExpression"]).execute(variables)).strip()
    else:
        sentence = rule["message"]
    field = (*path, *rule.get("fieldPath", "").split(".")[1:])
    yield Refusal.of(dotted(field), sentence)


@cache
def _compiled(expression: str) -> cel.Program:
    return cel.compile(expression)


def matches(pattern: str, text: str) -> bool:
    """Whether `pattern` occurs in `text`, by the same kind of regular expression as in CEL and in an API server."""
    return _compiled("self.matches(pattern)").execute({"self": text, "pattern": pattern}) is True
