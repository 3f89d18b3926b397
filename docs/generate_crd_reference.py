"""Write docs/crd-reference.md from the CRD: `python docs/generate_crd_reference.py [--check]`.

`--check` writes nothing and fails if the file is not what the CRD would give.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
SOURCE = Path("charts/thinwire/files/diffusionjobs.crd.yaml")
TARGET = Path("docs/crd-reference.md")


def main() -> int:
    """Write the reference, or with --check compare it; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the file is out of date")
    arguments = parser.parse_args()
    text = reference(yaml.safe_load((ROOT / SOURCE).read_text(encoding="utf-8")))
    target = ROOT / TARGET
    if not arguments.check:
        target.write_text(text, encoding="utf-8")
        return 0
    if target.is_file() and target.read_text(encoding="utf-8") == text:
        return 0
    sys.stderr.write(f"{TARGET}: expected what {SOURCE} gives, got something else; run {Path(__file__).name}\n")
    return 1


def reference(crd: Mapping[str, Any]) -> str:
    """Return the whole page."""
    spec = crd["spec"]
    version = spec["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]
    lines = [
        f"# {spec['names']['kind']}",
        "",
        f"<!-- Written by docs/{Path(__file__).name} from {SOURCE}; change that and run it again. -->",
        "",
        schema["description"],
        "",
        f"API version `{spec['group']}/{version['name']}`, kind `{spec['names']['kind']}`, "
        f"short name `{spec['names']['shortNames'][0]}`, {spec['scope'].lower()}. "
        "The API server, `thinwire validate` and `thinwire run` apply the same schema and the same rules.",
        "",
        *section("Fields of the spec", fields(schema["properties"]["spec"], "spec")),
        *rules_section(schema),
        *section("Fields of the status", fields(schema["properties"]["status"], "status")),
        "## Columns of `kubectl get dj`",
        "",
        "| column | shown | from |",
        "|---|---|---|",
        *(column_row(column) for column in version["additionalPrinterColumns"]),
    ]
    return "\n".join(lines) + "\n"


def column_row(column: Mapping[str, Any]) -> str:
    """Return the row of a printed column."""
    shown = "with -o wide" if column.get("priority") else "always"
    return f"| {column['name']} | {shown} | `{column['jsonPath'][1:]}` |"


def section(title: str, rows: Iterator[str]) -> list[str]:
    """Return a heading and a table of fields."""
    return [f"## {title}", "", "| field | type | default | bounds | meaning |", "|---|---|---|---|---|", *rows, ""]


def fields(schema: Mapping[str, Any], path: str) -> Iterator[str]:
    """Yield a row for every field below `schema`."""
    required = schema.get("required", ())
    for name, child in schema.get("properties", {}).items():
        place = f"{path}.{name}"
        default = "required" if name in required else _default(child)
        row = (f"`{place}`", _type(child), default, _bounds(child), child.get("description", ""))
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
        yield from fields(child, place)
        if child.get("type") == "array":
            yield from fields(child["items"], f"{place}[]")


def rules_section(schema: Mapping[str, Any]) -> list[str]:
    """Return the table of CEL rules."""
    lines = [
        "## Rules",
        "",
        "A rule that names `oldSelf` counts when a job is changed.",
        "",
        "| where | rule |",
        "|---|---|",
    ]
    for path, rule in rules(schema, ""):
        where = (path + rule.get("fieldPath", "")).removeprefix(".") or "the job"
        lines.append(f"| `{where}` | `{' '.join(rule['rule'].split())}` |".replace("||", "\\|\\|"))
    return [*lines, ""]


def rules(schema: Mapping[str, Any], path: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Yield every rule with the path at which it stands."""
    for rule in schema.get("x-kubernetes-validations", ()):
        yield path, rule
    for name, child in schema.get("properties", {}).items():
        yield from rules(child, f"{path}.{name}")
    if "items" in schema:
        yield from rules(schema["items"], f"{path}[]")


def _type(schema: Mapping[str, Any]) -> str:
    if schema["type"] == "array":
        return f"list of {schema['items']['type']}s"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"map of {schema['additionalProperties']['type']}s"
    return str(schema["type"])


def _default(schema: Mapping[str, Any]) -> str:
    if "default" not in schema or schema["default"] == {}:
        return ""
    return f"`{json.dumps(schema['default'])}`"


def _bounds(schema: Mapping[str, Any]) -> str:
    found = []
    if "enum" in schema:
        found.append(" ".join(f"`{choice}`" for choice in schema["enum"]))
    if "minimum" in schema and "maximum" in schema:
        found.append(f"{schema['minimum']} to {schema['maximum']}")
    elif "minimum" in schema:
        found.append(f"at least {schema['minimum']}")
    if "multipleOf" in schema:
        found.append(f"multiple of {schema['multipleOf']}")
    if "maxLength" in schema:
        found.append(f"{schema.get('minLength', 0)} to {schema['maxLength']} characters")
    found.extend(f"at most {schema[key]} entries" for key in ("maxItems", "maxProperties") if key in schema)
    if "pattern" in schema:
        found.append(f"`{schema['pattern']}`")
    return ", ".join(found)


if __name__ == "__main__":
    raise SystemExit(main())
