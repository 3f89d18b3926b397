"""The CRD's OpenAPI schema, applied by jsonschema, and what `kubectl apply --validate=strict` adds to it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema import Draft202012Validator, ValidationError, validators

from thinwire.controller.manifest.refusal import Refusal
from thinwire.controller.manifest.rules import Path, matches
from thinwire.controller.manifest.schema import Schema, dotted, root_schema, schema_at

_ARTICLES = {
    "integer": "an integer",
    "string": "a string",
    "boolean": "true or false",
    "array": "a list",
    "object": "a map",
}


def shape_refusals(raw: Mapping[str, Any]) -> tuple[list[Refusal], frozenset[Path]]:
    """Check `raw`, which has its defaults, against the schema.

    Returns the refusals and the paths that are wrong already, at which rules need not look.
    """
    schema = root_schema()
    refusals = list(_unknown_fields(raw, schema, ()))
    blocked: set[Path] = set()
    errors = list(_validator(schema).iter_errors(raw))
    mistyped = {tuple(error.absolute_path) for error in errors if error.validator == "type"}
    for error in errors:
        path: Path = tuple(error.absolute_path)
        if path in mistyped and error.validator != "type":
            continue
        if error.validator == "required":
            blocked |= {(*path, name) for name in _absent(error)}
        else:
            blocked.add(path)
        refusals.extend(_sentences(error, path, schema_at(schema, path)))
    refusals.extend(_repeated_keys(raw, schema, ()))
    return refusals, frozenset(blocked)


def _validator(schema: Schema) -> Any:
    extended = validators.extend(Draft202012Validator, {"pattern": _pattern})  # type: ignore[no-untyped-call]
    return extended(schema)


def _pattern(validator: object, pattern: str, value: object, schema: object) -> Iterator[ValidationError]:
    if isinstance(value, str) and not matches(pattern, value):
        yield ValidationError(f"{value!r} does not match {pattern!r}")


def _unknown_fields(value: Any, schema: Schema, path: Path) -> Iterator[Refusal]:
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        additional = schema.get("additionalProperties")
        is_open = (
            path == ("metadata",)
            or schema.get("x-kubernetes-preserve-unknown-fields")
            or schema.get("type") != "object"
        )
        for name, child in value.items():
            if name in properties:
                yield from _unknown_fields(child, properties[name], (*path, name))
            elif isinstance(additional, dict):
                yield from _unknown_fields(child, additional, (*path, name))
            elif not is_open:
                yield _unknown_field(name, properties, path)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unknown_fields(item, schema.get("items", {}), (*path, index))


def _unknown_field(name: str, properties: Mapping[str, Any], path: Path) -> Refusal:
    near = difflib.get_close_matches(name, properties, n=1)
    remedy = f"write {near[0]} or remove it" if near else "remove it"
    return Refusal(dotted((*path, name)), f"one of {', '.join(properties)}", "an unknown field", remedy)


def _repeated_keys(value: Any, schema: Schema, path: Path) -> Iterator[Refusal]:
    if isinstance(value, dict):
        for name, child in schema.get("properties", {}).items():
            if name in value:
                yield from _repeated_keys(value[name], child, (*path, name))
    elif isinstance(value, list) and schema.get("x-kubernetes-list-type") == "map":
        (key,) = schema["x-kubernetes-list-map-keys"]
        first: dict[str, int] = {}
        for index, item in enumerate(value):
            name = item.get(key) if isinstance(item, dict) else None
            if not isinstance(name, str):
                continue
            if name in first:
                got = f'"{name}" again, as in {dotted((*path, first[name]))}'
                yield Refusal(dotted((*path, index, key)), f"a {key} of its own", got, "rename one of the two")
            first.setdefault(name, index)


def _sentences(error: ValidationError, path: Path, schema: Schema) -> Iterator[Refusal]:
    value: Any = error.instance
    limit: Any = error.validator_value
    description = _gist(schema)
    if error.validator == "required":
        for name in _absent(error):
            gist = _gist(schema_at(schema, (name,)))
            yield Refusal(dotted((*path, name)), "a value", "none", f"add it: {gist}")
        return
    expected, got, remedy = _explain(str(error.validator), limit, value, schema, description)
    yield Refusal(dotted(path), expected, got, remedy)


def _absent(error: ValidationError) -> list[str]:
    value: Any = error.instance
    wanted: Any = error.validator_value
    return [name for name in wanted if name not in value]


def _explain(keyword: str, limit: Any, value: Any, schema: Schema, description: str) -> tuple[str, str, str]:
    """Return what was expected, what came, and what to do about it."""
    match keyword:
        case "type":
            return _ARTICLES[limit], _named(value), _type_remedy(limit, value, schema, description)
        case "enum":
            near = difflib.get_close_matches(value, limit, n=1, cutoff=0.5) if isinstance(value, str) else []
            return f"one of {', '.join(limit)}", _named(value), f"write {near[0]}" if near else "choose one of them"
        case "minimum":
            return f"at least {limit}", str(value), "raise it"
        case "maximum":
            return f"at most {limit}", str(value), "lower it"
        case "multipleOf":
            low = value // limit * limit
            return f"a multiple of {limit}", str(value), f"set it to {low or limit} or {low + limit}"
        case "maxLength":
            return f"at most {limit} characters", str(len(value)), "shorten it"
        case "minLength":
            return f"at least {limit} characters", str(len(value)), f"fill it in: {description}"
        case "maxItems" | "maxProperties":
            return f"at most {limit} entries", str(len(value)), "remove some"
        case "pattern":
            return f"text that matches {limit}", _named(value), f"rewrite it: {description}"
    raise AssertionError(f"the CRD uses {keyword}, for which there is no sentence")


def _type_remedy(expected: str, value: Any, schema: Schema, description: str) -> str:
    if isinstance(value, bool) and not value and "Off" in schema.get("enum", ()):
        return 'write "Off" with its quotes: YAML reads a bare Off as false'
    if expected == "string" and isinstance(value, bool | int | float):
        return "put it in quotes"
    if expected == "integer" and isinstance(value, str) and value.strip().isdecimal():
        return "remove the quotes"
    if expected == "integer" and isinstance(value, float):
        return "write it without a fraction"
    return (
        f"write {_ARTICLES[expected]}: {description}"
        if description and expected != "boolean"
        else f"write {_ARTICLES[expected]}"
    )


def _named(value: Any) -> str:
    if isinstance(value, dict | list):
        return "a map" if isinstance(value, dict) else "a list"
    if value is None:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _gist(schema: Schema) -> str:
    """Return the first sentence of the description, as the second half of one."""
    text = str(schema.get("description", "")).split(". ")[0].rstrip(".")
    is_word = len(text) > 1 and not text[1].isupper()
    return text[:1].lower() + text[1:] if is_word else text
