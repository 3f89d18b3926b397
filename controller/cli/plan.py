"""`thinwire plan FILE`: what a manifest will do, before anything starts."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console
from rich.table import Table

from thinwire.controller.cli import progress
from thinwire.controller.cli.run import plain_console
from thinwire.controller.cli.validate import BAD_INPUT
from thinwire.controller.manifest.job import CompressionMode, DiffusionJob
from thinwire.controller.manifest.load import Document, load_document
from thinwire.controller.manifest.refusal import ManifestError, Refusal
from thinwire.controller.manifest.summary import summary
from thinwire.controller.manifest.validate import validate
from thinwire.controller.planner import JobPlan, plan_job
from thinwire.controller.planner.job_plan import LinkPlan
from thinwire.controller.planner.rungs import OFF


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to say it.")
def plan(file: Path, output: str) -> None:
    """Say what a DiffusionJob will do: ranks and groups, bytes on every link class, memory, and what is refused.

    Starts nothing and needs no torch. Exits with 2 if the job would be refused.
    """
    try:
        document = load_document(file)
    except ManifestError as error:
        _say_no(file, None, error.refusals, output)
    refusals = validate(document.raw)
    if refusals:
        _say_no(file, document, refusals, output)
    job = DiffusionJob.from_raw(document.raw)
    planned = plan_job(job)
    if planned.refusals:
        _say_no(file, document, planned.refusals, output)
    if output == "json":
        click.echo(json.dumps({"file": str(file), "refusals": [], **as_json(job, planned)}, indent=2))
    else:
        print_plan(plain_console(), job, planned)


def as_json(job: DiffusionJob, planned: JobPlan) -> dict[str, Any]:
    """Give a plan as plain data; bytes are those of the busiest rank."""
    return {
        "will": summary(job),
        "ranks": planned.layout.ranks,
        "ranksPerNode": planned.layout.ranks_per_node,
        "groups": {
            dimension.value: [{"ranks": list(group.ranks), "linkClass": group.link_class} for group in groups]
            for dimension, groups in planned.layout.groups.items()
        },
        "attention": None if planned.attention is None else asdict(planned.attention),
        "links": [asdict(link) for link in planned.links],
        "baseMemory": None if planned.memory is None else asdict(planned.memory),
    }


def print_plan(console: Console, job: DiffusionJob, planned: JobPlan) -> None:
    """Print what a person wants to know."""
    console.print(f"{job.name}: {summary(job)}")
    console.print(_layout_table(planned))
    if planned.attention is None:
        console.print("bytes and memory: unknown here, the model is where only a cluster has it")
        return
    if not planned.links:
        console.print("no exchange: every rank works alone")
    for link in planned.links:
        console.print(_link_table(job, link))
    if planned.memory is not None and planned.links:
        without = planned.memory.layers_without
        more = f"; {without} of {planned.attention.layers} layers without, exchanged whole" if without else ""
        kept = progress.size(planned.memory.base_bytes)
        console.print(f"bases of residuals: {kept} a rank, {planned.memory.format} width{more}")


def _layout_table(planned: JobPlan) -> Table:
    table = Table(title=f"{planned.layout.ranks} ranks, {planned.layout.ranks_per_node} a node", title_justify="left")
    for heading in ("dimension", "groups of ranks", "links"):
        table.add_column(heading)
    for dimension, groups in planned.layout.groups.items():
        shown = "  ".join(_ranks(group.ranks) for group in groups[:4]) + ("  ..." if len(groups) > 4 else "")
        classes = ", ".join(sorted({group.link_class for group in groups}))
        table.add_row(f"{dimension} {len(groups[0].ranks)}", shown, classes)
    if not planned.layout.groups:
        table.add_row("none", "0", "")
    return table


def _ranks(ranks: tuple[int, ...]) -> str:
    if len(ranks) <= 8:
        return "-".join(map(str, ranks))
    return f"{ranks[0]}-{ranks[1]}-...-{ranks[-1]}"


def _link_table(job: DiffusionJob, link: LinkPlan) -> Table:
    title = (
        f"{link.link_class} links: {link.operations_per_step} collectives a step "
        f"({', '.join(link.operations)}), {link.values_per_step:,} values from each of {link.ranks} ranks"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("rate")
    for heading in ("bits a value", "bytes a step", "of uncompressed", "first steps (key frames)"):
        table.add_column(heading, justify="right")
    table.add_column("used")
    whole = link.rungs[0].step_bytes
    for one in link.rungs:
        key_frames = "" if one.rung == OFF else progress.size(one.key_frame_bytes)
        share = f"{100 * one.step_bytes / whole:.3g} %"
        used = _use(job) if one.within_limits else ""
        table.add_row(one.rung, f"{one.millibits / 1000:.3g}", progress.size(one.step_bytes), share, key_frames, used)
    return table


def _use(job: DiffusionJob) -> str:
    return {
        CompressionMode.OFF: "always",
        CompressionMode.FIXED: "after the first steps",
        CompressionMode.ADAPTIVE: "as the link asks",
    }[job.compression.mode]


def _say_no(
    file: Path, document: Document | None, refusals: list[Refusal] | tuple[Refusal, ...], output: str
) -> NoReturn:
    lines = [document.line_of(refusal.field) if document else None for refusal in refusals]
    if output == "json":
        said = [
            {**asdict(refusal), "line": line, "sentence": str(refusal)}
            for refusal, line in zip(refusals, lines, strict=True)
        ]
        click.echo(json.dumps({"file": str(file), "refusals": said}, indent=2))
    for refusal, line in zip(refusals, lines, strict=True):
        place = str(file) if line is None else f"{file}:{line}"
        click.echo(f"{place}: {refusal}", err=True)
    raise SystemExit(BAD_INPUT)
