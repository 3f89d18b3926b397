"""The end of a run: have the report written, and print what matters of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from thinwire.controller.cli import progress
from thinwire.controller.policy.explain import size


def write_report(output: Path) -> dict[str, Any] | None:
    """Have report.json, report.html and the contact sheet written; None, with a word why, if that does not work."""
    if not (output / "events.jsonl").exists():
        return None
    done = subprocess.run(
        [sys.executable, "-m", "thinwire.runtime.report", str(output)], capture_output=True, text=True
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        click.echo(f"thinwire: no report: {said.removeprefix('thinwire: ')}", err=True)
        return None
    report: dict[str, Any] = json.loads((output / "report.json").read_text(encoding="utf-8"))
    return report


def print_summary(console: Console, output: Path, report: Mapping[str, Any]) -> None:
    """Print pictures, bytes, retunes and where everything is."""
    prompts = report["prompts"]
    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    finished = [prompt for prompt in prompts if prompt["finished"]]
    seconds = sum(prompt["seconds"] or 0.0 for prompt in prompts)
    table.add_row("pictures", f"{len(finished)} of {len(prompts)}, {progress.duration(seconds)} on them")
    sent, whole = report["bytes"]["sent"], report["bytes"]["uncompressed"]
    if whole:
        table.add_row("sent", f"{size(sent)} of {size(whole)} ({100 * sent / whole:.3g} %)")
    table.add_row("error", f"{100 * report['max_relative_error']:.2g} % at most")
    for retune in report["retunes"]:
        before, after = retune["from_millibits"] / 1000, retune["to_millibits"] / 1000
        where = f"step {retune['job_step']}, {retune['link_class']}"
        table.add_row("rate", f"{where}: {before:g} -> {after:g} bits: {retune['reason']}")
    if report["emulated"]:
        table.add_row("link", "emulated: its rate was made, not found")
    table.add_row("report", str(output / "report.html"))
    table.add_row("sheet", str(output / "contact-sheet.png"))
    console.print(table)
