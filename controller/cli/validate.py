"""`thinwire validate`: would a cluster take this manifest, and can this machine run it?"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from thinwire.controller.manifest.job import DiffusionJob
from thinwire.controller.manifest.load import Document, load_document
from thinwire.controller.manifest.preflight import warnings
from thinwire.controller.manifest.refusal import ManifestError, Refusal
from thinwire.controller.manifest.summary import summary
from thinwire.controller.manifest.validate import validate as refusals_of
from thinwire.controller.planner import plan_job
from thinwire.controller.planner.auto import settled

BAD_INPUT = 2


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be said about one file; `lines` pairs every refusal with its line, where it has one."""

    file: str
    will: str
    refusals: tuple[Refusal, ...]
    lines: tuple[int | None, ...]
    warnings: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Give the verdict as plain data."""
        refused = [
            {**asdict(refusal), "line": line, "sentence": str(refusal)}
            for refusal, line in zip(self.refusals, self.lines, strict=True)
        ]
        return {
            "file": self.file,
            "valid": not refused,
            "will": self.will,
            "refusals": refused,
            "warnings": list(self.warnings),
        }


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to say it.")
def validate(files: tuple[Path, ...], output: str) -> None:
    """Check manifests as a cluster's API server would, and their models where they are on this machine.

    Exits with 2 if anything is refused.
    """
    verdicts = [_judge(file) for file in files]
    if output == "json":
        click.echo(json.dumps([verdict.as_json() for verdict in verdicts], indent=2))
    else:
        for verdict in verdicts:
            _say(verdict)
    if any(verdict.refusals for verdict in verdicts):
        raise SystemExit(BAD_INPUT)


def _judge(file: Path) -> Verdict:
    try:
        document = load_document(file)
    except ManifestError as error:
        return Verdict(str(file), "", error.refusals, tuple(None for _ in error.refusals))
    refusals = refusals_of(document.raw)
    if refusals:
        return _refused(file, document, refusals)
    try:
        job = settled(DiffusionJob.from_raw(document.raw))
    except ManifestError as error:
        return _refused(file, document, list(error.refusals))
    refusals = list(plan_job(job).refusals)
    if refusals:
        return _refused(file, document, refusals)
    return Verdict(str(file), summary(job), (), (), tuple(warnings(job)))


def _refused(file: Path, document: Document, refusals: list[Refusal]) -> Verdict:
    by_line = sorted(refusals, key=lambda refusal: document.line_of(refusal.field) or 0)
    return Verdict(str(file), "", tuple(by_line), tuple(document.line_of(refusal.field) for refusal in by_line))


def _say(verdict: Verdict) -> None:
    for refusal, line in zip(verdict.refusals, verdict.lines, strict=True):
        place = verdict.file if line is None else f"{verdict.file}:{line}"
        click.echo(f"{place}: {refusal}", err=True)
    if not verdict.refusals:
        click.echo(f"{verdict.file}: valid: {verdict.will}")
    for warning in verdict.warnings:
        click.echo(f"{verdict.file}: warning: {warning}", err=True)
