"""`thinwire plan FILE`: what a manifest will do, before anything starts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console
from rich.table import Table

from thinwire.controller.cli import progress
from thinwire.controller.cli.errors import Refused
from thinwire.controller.cli.link import rate_of
from thinwire.controller.cli.run import plain_console
from thinwire.controller.cli.validate import BAD_INPUT
from thinwire.controller.manifest.job import CompressionMode, DiffusionJob, Parallelism
from thinwire.controller.manifest.load import Document, load_document
from thinwire.controller.manifest.preflight.model_folder import ModelFacts, read_model
from thinwire.controller.manifest.refusal import ManifestError, Refusal
from thinwire.controller.manifest.summary import degrees, summary
from thinwire.controller.manifest.validate import validate
from thinwire.controller.planner import JobPlan, plan_job
from thinwire.controller.planner.auto import machine_of, ranked, settled
from thinwire.controller.planner.cost import Prediction
from thinwire.controller.planner.job_plan import LinkPlan
from thinwire.controller.planner.layout import LinkClass
from thinwire.controller.planner.machine import Link, Machine, Source, measured
from thinwire.controller.planner.rungs import OFF
from thinwire.controller.policy.explain import size, throughput

_LONGEST_STEP_SECONDS = 86_400.0
_SHOWN = 6


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--link", metavar="RATE", help="What a rank can send to other nodes, such as 400Mbit or 5MB/s.")
@click.option("--step-seconds", type=float, help="What one rank alone needs for a step of one picture.")
@click.option(
    "--like",
    type=click.Path(path_type=Path),
    help="Output folder of a run whose links and computing count as measured.",
)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to say it.")
def plan(file: Path, link: str | None, step_seconds: float | None, like: Path | None, output: str) -> None:
    """Say what a DiffusionJob will do: ranks and groups, bytes on every link class, memory, and what is refused.

    Then how long it will take, and what other degrees would: by figures given here, measured (--like) or assumed.
    Starts nothing and needs no torch. Exits with 2 if the job would be refused.
    """
    if step_seconds is not None and not 0 < step_seconds < _LONGEST_STEP_SECONDS:
        raise Refused(f"--step-seconds: expected more than 0 and less than a day, got {step_seconds}; correct it")
    given = Given(None if link is None else rate_of(link, "--link") / 8, step_seconds, like)
    try:
        document = load_document(file)
    except ManifestError as error:
        _say_no(file, None, error.refusals, output)
    refusals = validate(document.raw)
    if refusals:
        _say_no(file, document, refusals, output)
    job = DiffusionJob.from_raw(document.raw)
    refused, machine, ways = _ways(job, given)
    if not refused and job.parallelism.auto:
        job = replace(job, parallelism=ways[0].parallelism) if ways else settled(job)
    planned = plan_job(job)
    refused = refused or list(planned.refusals)
    if refused:
        _say_no(file, document, refused, output)
    if job.parallelism.auto:
        _say_later(file, job, output)
        return
    if output == "json":
        said = {**as_json(job, planned), **times_as_json(machine, ways)}
        click.echo(json.dumps({"file": str(file), "refusals": [], **said}, indent=2))
        return
    console = plain_console()
    print_plan(console, job, planned)
    if machine is not None:
        print_times(console, job, machine, ways)


@dataclass(frozen=True, slots=True)
class Given:
    """What the command line says of the machine."""

    bytes_per_second: float | None
    step_seconds: float | None
    like: Path | None


def _ways(job: DiffusionJob, given: Given) -> tuple[list[Refusal], Machine | None, list[Prediction]]:
    """Return why the job cannot be planned, else its machine and all degrees it could run with, the best first."""
    try:
        facts = read_model(job.model)
        if facts is None:
            settled(job)  # refuses automatic degrees that only a look at the model would give
            return [], None, []
        machine = _machine(job, facts, given)
        ways = ranked(job, facts, machine)
        if job.parallelism.auto and not ways:
            settled(job, machine)
    except ManifestError as error:
        return list(error.refusals), None, []
    return [], machine, ways


def _machine(job: DiffusionJob, facts: ModelFacts, given: Given) -> Machine:
    machine = machine_of(job, facts)
    if given.like is not None:
        try:
            machine = measured(machine, json.loads((given.like / "report.json").read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise Refused(f"--like: expected the output folder of a run with report.json, got {error}") from error
    if given.bytes_per_second is not None:
        before = machine.links[LinkClass.INTER_NODE]
        link = Link(given.bytes_per_second, before.fixed_seconds, Source.GIVEN)
        machine = replace(machine, links={**machine.links, LinkClass.INTER_NODE: link})
    if given.step_seconds is not None:
        machine = replace(machine, step_seconds=given.step_seconds, step_source=Source.GIVEN)
    return machine


def times_as_json(machine: Machine | None, ways: Sequence[Prediction]) -> dict[str, Any]:
    """Give the machine and the predictions as plain data."""
    return {"machine": None if machine is None else asdict(machine), "ways": [asdict(way) for way in ways]}


def print_times(console: Console, job: DiffusionJob, machine: Machine, ways: Sequence[Prediction]) -> None:
    """Print what this job and its nearest rivals would take."""
    links = ", ".join(
        f"{link_class} {throughput(link.bytes_per_second)} ({link.source})"
        for link_class, link in machine.links.items()
    )
    alone = f"one rank alone {machine.step_seconds:.3g} s a step ({machine.step_source})"
    table = Table(title=f"predicted times: {alone}; {links}", title_justify="left")
    table.add_column("degrees")
    for heading in ("computing", "exchange", "step", "job"):
        table.add_column(heading, justify="right")
    table.add_column("rates")
    table.add_column("")
    shown = [*ways[:_SHOWN], *(way for way in ways[_SHOWN:] if _same(way.parallelism, job.parallelism))]
    for way in shown:
        rates = ", ".join(way.rungs.values()) or "no exchange"
        times = [f"{seconds:.3g} s" for seconds in (way.compute_seconds, way.exchange_seconds, way.step_seconds)]
        mark = "this job" if _same(way.parallelism, job.parallelism) else ""
        table.add_row(degrees(way.parallelism), *times, progress.duration(way.job_seconds), rates, mark)
    console.print(table)


def _same(one: Parallelism, other: Parallelism) -> bool:
    return replace(one, auto=False, link_mebibytes_per_second=None) == replace(
        other, auto=False, link_mebibytes_per_second=None
    )


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
        kept = size(planned.memory.base_bytes)
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
    for heading in ("bits a value", "bytes a step", "of uncompressed", "first steps (key frames)", "a picture"):
        table.add_column(heading, justify="right")
    table.add_column("used")
    whole = link.rungs[0].step_bytes
    for one in link.rungs:
        key_frames = "" if one.rung == OFF else size(one.key_frame_bytes)
        share = f"{100 * one.step_bytes / whole:.3g} %"
        used = _use(job) if one.within_limits else ""
        sizes = (size(one.step_bytes), share, key_frames, size(one.picture_bytes))
        table.add_row(one.rung, f"{one.millibits / 1000:.3g}", *sizes, used)
    return table


def _use(job: DiffusionJob) -> str:
    return {
        CompressionMode.OFF: "always",
        CompressionMode.FIXED: "after the first steps",
        CompressionMode.ADAPTIVE: "as the link asks",
    }[job.compression.mode]


def _say_later(file: Path, job: DiffusionJob, output: str) -> None:
    if output == "json":
        click.echo(json.dumps({"file": str(file), "refusals": [], "will": summary(job)}, indent=2))
        return
    click.echo(f"{job.name}: {summary(job)}")
    click.echo("degrees follow in the cluster, from the number of prompts in the ConfigMap: the model is not here")


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
