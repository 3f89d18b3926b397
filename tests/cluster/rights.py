"""The controller's rights as docs/rbac.md has them: the chart grants these, and tests run a whole job with them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_PAGE = Path(__file__).resolve().parents[2] / "docs" / "rbac.md"


def rights() -> dict[str, list[dict[str, Any]]]:
    """The tables of docs/rbac.md as rules, by heading."""
    found_rules: dict[str, list[dict[str, Any]]] = {}
    heading = ""
    for line in _PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            heading = line
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 4 or cells[0] in ("group", "---"):
            continue
        group, resource, verbs, _ = cells
        rule = {
            "apiGroups": ["" if group == "core" else group],
            "resources": [re.sub(r" \(.*", "", resource)],
            "verbs": verbs.split(", "),
        }
        found_rules.setdefault(heading, []).append(rule)
    return found_rules
