"""The result of `bench operator` as a table of Markdown."""

from __future__ import annotations

from typing import Any

_HEADINGS = (
    "jobs",
    "start of all, s",
    "pass p50 / p99, ms",
    "wait in line p99, ms",
    "event to status p99, ms",
    "status writes a second",
    "reports a second",
    "core, percent",
    "memory, MiB",
    "restart settles, s",
)


def table(result: dict[str, Any]) -> str:
    lines = [f"| {' | '.join(_HEADINGS)} |", f"|{'---|' * len(_HEADINGS)}"]
    for run in result["runs"]:
        cells = (
            f"{run['jobs']:,}",
            f"{run['created_seconds']:.1f}",
            f"{1000 * run['pass_seconds']['p50']:.1f} / {1000 * run['pass_seconds']['p99']:.0f}",
            f"{1000 * run['queue_seconds']['p99']:.0f}",
            f"{1000 * run['reaction_seconds']['p99']:.0f}",
            f"{run['status_writes_per_second']:.1f}",
            f"{run['reports_per_second']:.0f}",
            f"{run['core_percent']:.0f}",
            f"{run['peak_memory_mebibytes']:.0f}",
            f"{run['restart_seconds']:.1f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
