"""`thinwire status [JOB]`: asks the controllers of running jobs over gRPC, from any terminal."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

import click
import grpc
from google.protobuf import json_format
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from thinwire.controller.cli import progress
from thinwire.controller.cli.display import panel
from thinwire.controller.cli.errors import Failed
from thinwire.controller.local import registry
from thinwire.proto.thinwire.v1alpha1 import status_pb2 as pb
from thinwire.proto.thinwire.v1alpha1.status_pb2_grpc import StatusServiceStub

_ANSWER_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Found:
    """A job, and where it was found."""

    address: str
    job: pb.JobStatus


@click.command()
@click.argument("job", required=False)
@click.option("--watch", is_flag=True, help="Show every change until the job ends.")
@click.option("-o", "output", type=click.Choice(["text", "json"]), default="text", help="How to say it.")
@click.option("--address", metavar="HOST:PORT", help="Ask this controller; otherwise all that run here are asked.")
def status(job: str | None, watch: bool, output: str, address: str | None) -> None:
    """Show running jobs, or one: JOB is NAME or NAMESPACE/NAME."""
    addresses = [address] if address else _addresses()
    found = [one for where in addresses for one in _ask(where, must_answer=address is not None)]
    if job is not None:
        found = [one for one in found if job in (one.job.name, f"{one.job.namespace}/{one.job.name}")]
        if not found:
            raise Failed(
                f"no job {job} is known{' to ' + address if address else ' here'}; `thinwire status` lists all"
            )
    if watch:
        _watch(found, output)
    elif output == "json":
        jobs = [_as_json(one.job) for one in found]
        click.echo(json.dumps(jobs if job is None else jobs[0], indent=2))
    elif not found:
        click.echo("no job runs here")
    elif job is None:
        Console(highlight=False).print(_table(found))
    else:
        Console(highlight=False).print(Group(*(_detail(one.job) for one in found)))


def _addresses() -> list[str]:
    try:
        return [entry.address for entry in registry.running()]
    except OSError as error:
        raise Failed(f"the list of running jobs cannot be read: {error}") from None


def _ask(address: str, *, must_answer: bool) -> list[Found]:
    with _channel(address) as channel:
        try:
            answer = StatusServiceStub(channel).ListJobs(pb.ListJobsRequest(), timeout=_ANSWER_SECONDS)
        except grpc.RpcError as error:
            if must_answer:
                raise Failed(f"no controller answers at {address} ({error.code().name}); check the address") from None
            click.echo(f"thinwire: the controller at {address} does not answer ({error.code().name})", err=True)
            return []
    return [Found(address, job) for job in answer.jobs]


def _watch(found: list[Found], output: str) -> None:
    if len(found) != 1:
        names = ", ".join(f"{one.job.namespace}/{one.job.name}" for one in found) or "none"
        raise Failed(f"--watch follows one job, and these run here: {names}; name one")
    changes = _changes(found[0])
    if output == "json":
        for job in changes:
            click.echo(json.dumps(_as_json(job)))
        return
    console = Console(highlight=False)
    left = progress.TimeLeft()
    if not console.is_terminal:
        for job in changes:
            click.echo(_line(job))
        return
    with Live(console=console, auto_refresh=False) as live:
        for job in changes:
            live.update(_detail(job, left.after(job, time.monotonic())), refresh=True)


def _changes(found: Found) -> Iterator[pb.JobStatus]:
    asked = pb.WatchJobRequest(namespace=found.job.namespace, name=found.job.name)
    with _channel(found.address) as channel:
        try:
            for answer in StatusServiceStub(channel).WatchJob(asked):
                yield answer.job
        except grpc.RpcError as error:
            raise Failed(f"the controller at {found.address} went away ({error.code().name})") from None


def _channel(address: str) -> grpc.Channel:
    return grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])


def _as_json(job: pb.JobStatus) -> dict[str, object]:
    document: dict[str, object] = json_format.MessageToDict(job, always_print_fields_with_no_presence=True)
    return document


def _table(found: list[Found]) -> Table:
    table = Table(box=None, padding=(0, 2))
    for heading in ("JOB", "STATE", "PROMPTS", "STEP", "RATE", "LINK", "ERROR", "ADDRESS"):
        table.add_column(heading)
    for one in found:
        job = one.job
        table.add_row(
            f"{job.namespace}/{job.name}",
            progress.state_name(job),
            f"{job.prompts_done}/{job.prompts_total}",
            f"{job.step}/{job.steps}",
            progress.rate(job),
            progress.links(job),
            progress.error(job),
            one.address,
        )
    return table


def _detail(job: pb.JobStatus, seconds_left: float | None = None) -> Group:
    shown = [panel(job, "", f"{job.namespace}/{job.name}", seconds_left)]
    if job.retunes:
        table = Table(box=None, padding=(0, 2))
        for heading in ("STEP", "LINK", "FROM", "TO", "WHY"):
            table.add_column(heading)
        for retune in job.retunes[-10:]:
            before, after = f"{retune.from_millibits / 1000:g}", f"{retune.to_millibits / 1000:g}"
            table.add_row(str(retune.job_step), retune.link_class, before, after, retune.reason)
        shown.append(table)
    return Group(*shown)


def _line(job: pb.JobStatus) -> str:
    return (
        f"{job.namespace}/{job.name}: {progress.state_name(job)}, {job.prompts_done}/{job.prompts_total} prompts, "
        f"step {job.step}/{job.steps}, rate {progress.rate(job)}, link {progress.links(job)}, "
        f"error {progress.error(job)}"
    )
