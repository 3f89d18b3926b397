"""`thinwire run --compare`: the same prompts and seeds by other means, and how alike the pictures are."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from thinwire.controller.cli import progress
from thinwire.controller.cli.errors import Failed
from thinwire.controller.cli.prepare import single, uncompressed
from thinwire.controller.local import files
from thinwire.controller.local.files import FOLDER, RunFile
from thinwire.controller.manifest.job import DiffusionJob
from thinwire.controller.policy.explain import size
from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import EmulatedLinkPhase

COMPARISON = "comparison.json"


@dataclass(frozen=True, slots=True)
class Other:
    """Another way to make the job's pictures."""

    name: str
    title: str
    output: Path
    run: RunFile


def others(job: DiffusionJob, output: Path, link: Sequence[EmulatedLinkPhase]) -> tuple[Other, ...]:
    """The runs that `output` is compared with; their folders are made here."""
    made = []
    plans: tuple[tuple[str, str, Callable[[Path], RunFile]], ...] = (
        ("uncompressed", "same ranks, uncompressed", lambda folder: uncompressed(job, folder, link)),
        ("single", "one process, plain diffusers", lambda folder: single(job, folder)),
    )
    for name, title, plan in plans:
        folder = output / FOLDER / "compare" / name
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        made.append(Other(name, title, folder, plan(folder)))
    return tuple(made)


def write_comparison(output: Path, compared: Sequence[Other]) -> None:
    """Compare `output` with runs that have ended, and store it for the report; raises Failed."""
    found = {}
    for other in compared:
        report = _json_of("thinwire.runtime.report", other.output, read=other.output / "report.json")
        likeness = _json_of("thinwire.runtime.compare", output, other.output)
        found[other.name] = {"title": other.title, **_figures(report), **likeness}
    files.write(output / FOLDER / COMPARISON, found)


def print_comparison(console: Console, output: Path, report: Mapping[str, Any]) -> None:
    """Print this run beside the others."""
    compared = json.loads((output / FOLDER / COMPARISON).read_text(encoding="utf-8"))
    table = Table(title="beside other ways to make the same pictures", title_justify="left")
    table.add_column("", no_wrap=True)
    for heading in ("time", "bytes sent", "PSNR median", "PSNR least", "SSIM median", "SSIM least"):
        table.add_column(heading, justify="right")
    mine = _figures(report)
    table.add_row("this run", progress.duration(mine["seconds"]), size(mine["bytes_sent"]), *["–"] * 4)
    for other in compared.values():
        table.add_row(
            other["title"],
            progress.duration(other["seconds"]),
            size(other["bytes_sent"]),
            _decibels(other["median_psnr_db"]),
            _decibels(other["min_psnr_db"]),
            f"{other['median_ssim']:.4f}",
            f"{other['min_ssim']:.4f}",
        )
    console.print(table)


def _figures(report: Mapping[str, Any]) -> dict[str, float]:
    seconds = sum(prompt["seconds"] or 0.0 for prompt in report["prompts"])
    return {"seconds": seconds, "bytes_sent": report["bytes"]["sent"]}


def _decibels(value: float | None) -> str:
    return "identical" if value is None else f"{value:.1f} dB"


def _json_of(module: str, *arguments: Path, read: Path | None = None) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", module, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise Failed(f"{module} failed: {said.removeprefix('thinwire: ')}")
    found: dict[str, Any] = json.loads(read.read_text(encoding="utf-8") if read else done.stdout)
    return found
