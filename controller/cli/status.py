"""`thinwire status [JOB]`, and `kubectl thinwire status`: asks controllers over gRPC, from any terminal.

Which ones never depends on what happens to run: `thinwire status` asks those of this machine, `kubectl thinwire status`
and every cluster option (--context, --namespace, --all-namespaces, --controller, --cluster) the one of the cluster.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import grpc
from google.protobuf import json_format
from google.protobuf.message import Message
from rich.console import Console
from rich.live import Live

from thinwire.controller.cli import progress, tables
from thinwire.controller.cli.cluster import (
    DEFAULT_CONTROLLER,
    ClusterOptions,
    log_in,
    reached,
    read_authorities,
    read_token,
)
from thinwire.controller.cli.endpoint import AwayError, Endpoint
from thinwire.controller.cli.errors import Failed
from thinwire.controller.local import registry
from thinwire.proto.thinwire.v1alpha1 import status_pb2 as pb
from thinwire.proto.thinwire.v1alpha1.status_pb2_grpc import StatusServiceStub

PLUGIN = "kubectl-thinwire"

_ANSWER_SECONDS = 20.0
_REACH_TRIES = 8
_LONGEST_PAUSE_SECONDS = 15.0

Opening = Callable[[], AbstractContextManager[Endpoint]]


@dataclass(frozen=True, slots=True)
class Where:
    """The controllers to ask. `lenient`: one that does not answer is named and passed over."""

    openings: tuple[Opening, ...]
    namespace: str = ""
    known_to: str = "here"
    lenient: bool = False
    tries: int = 1


@dataclass(frozen=True, slots=True)
class Found:
    """A job, and where it was found."""

    opening: Opening
    label: str
    job: pb.JobStatus


@click.command()
@click.argument("job", required=False)
@click.option("--watch", is_flag=True, help="Show every change until the job ends.")
@click.option("--history", is_flag=True, help="Show one line per step, as far back as the controller remembers.")
@click.option("-o", "output", type=click.Choice(["text", "json"]), default="text", help="How to say it.")
@click.option("--address", metavar="HOST:PORT", help="Ask this controller; with --ca-file over TLS.")
@click.option("--cluster", "in_cluster", is_flag=True, help="Ask the cluster of the kubeconfig, not this machine.")
@click.option("--local", is_flag=True, help="Ask this machine, also as kubectl thinwire.")
@click.option("--context", metavar="NAME", help="Ask the cluster of this context of the kubeconfig.")
@click.option(
    "-n", "--namespace", metavar="NAME", help="Jobs of this namespace of the cluster; default: the context's."
)
@click.option("-A", "--all-namespaces", is_flag=True, help="Jobs of all namespaces of the cluster.")
@click.option(
    "--controller",
    metavar="NAMESPACE/SERVICE",
    envvar="THINWIRE_CONTROLLER",
    help=f"Where the cluster has its controller; default: {DEFAULT_CONTROLLER}.",
)
@click.option("--token-file", type=Path, help="Show the token of this file instead of the kubeconfig's.")
@click.option("--ca-file", type=Path, help="Trust these authorities (PEM) instead of the published ones.")
@click.pass_context
def status(
    context_of_click: click.Context,
    job: str | None,
    watch: bool,
    history: bool,
    output: str,
    address: str | None,
    in_cluster: bool,
    local: bool,
    context: str | None,
    namespace: str | None,
    all_namespaces: bool,
    controller: str | None,
    token_file: Path | None,
    ca_file: Path | None,
) -> None:
    """Show running jobs, or one: JOB is NAME or NAMESPACE/NAME.

    Asks the controllers of this machine; `kubectl thinwire`, or any option that speaks of a cluster, asks a cluster's.
    """
    named = {"--cluster": in_cluster, "--context": context, "--namespace": namespace, "-A": all_namespaces}
    # Where the controller is may stand in the environment for good: that alone chooses no cluster.
    from_command_line = context_of_click.get_parameter_source("controller") is click.core.ParameterSource.COMMANDLINE
    named["--controller"] = from_command_line
    asked = [name for name, value in named.items() if value]
    if asked and (local or address):
        raise click.UsageError(f"{asked[0]} asks a cluster, {'--local' if local else '--address'} does not; choose one")
    if local and address:
        raise click.UsageError("--local asks this machine, --address one controller; choose one")
    if watch and history:
        raise click.UsageError("--watch follows, --history looks back; choose one")
    if namespace and all_namespaces:
        raise click.UsageError("--namespace names one, -A means all; choose one")
    plugin = (context_of_click.find_root().info_name or "").startswith(PLUGIN)
    if address:
        where = _direct(address, token_file, ca_file)
    elif asked or (plugin and not local):
        options = ClusterOptions(context or "", controller or DEFAULT_CONTROLLER, token_file, ca_file)
        where = _of_cluster(options, "" if all_namespaces else namespace)
    elif token_file or ca_file:
        raise click.UsageError("--token-file and --ca-file go with --address or a cluster option; name one")
    else:
        where = _of_this_machine()
    if watch:
        _watch(where, job, output)
    elif history:
        _history(where, job, output)
    else:
        _show(where, job, output)


def _direct(address: str, token_file: Path | None, ca_file: Path | None) -> Where:
    if token_file and not ca_file:
        raise click.UsageError("--token-file needs --ca-file: a token is never sent over a plain line")
    authorities = read_authorities(ca_file) if ca_file else b""
    token = read_token(token_file) if token_file else ""
    endpoint = Endpoint(address, address, authorities, token=token)
    return Where((partial(_as_is, endpoint),), known_to=f"to {address}")


def _as_is(endpoint: Endpoint) -> AbstractContextManager[Endpoint]:
    return contextlib.nullcontext(endpoint)


def _of_cluster(options: ClusterOptions, namespace: str | None) -> Where:
    login = log_in(options)
    chosen = login.namespace if namespace is None else namespace
    known_to = f"to {options.controller}" + (f" in namespace {chosen}" if chosen else "")
    return Where((partial(reached, options, login),), chosen, known_to, tries=_REACH_TRIES)


def _of_this_machine() -> Where:
    try:
        entries = registry.running()
    except OSError as error:
        raise Failed(f"the list of running jobs cannot be read: {error}") from None
    endpoints = [Endpoint(entry.address, entry.address) for entry in entries]
    return Where(tuple(partial(_as_is, one) for one in endpoints), lenient=True)


def _show(where: Where, job: str | None, output: str) -> None:
    found = _found(where, job)
    if output == "json":
        jobs = [_as_json(one.job) for one in found]
        click.echo(json.dumps(jobs if job is None else jobs[0], indent=2))
    elif not found:
        click.echo(f"no job {'runs here' if where.lenient else 'is known ' + where.known_to}")
    elif job is None:
        Console(highlight=False).print(tables.jobs([(one.job, one.label) for one in found]))
    else:
        for one in found:
            Console(highlight=False).print(tables.detail(one.job))


def _found(where: Where, job: str | None) -> list[Found]:
    """The jobs that were asked for; raises Failed if one was named and is not known."""
    namespace, name = _named(where, job)
    found = [one for opening in where.openings for one in _ask(where, opening, namespace, name)]
    if job is not None and not found:
        raise Failed(f"no job {job} is known {where.known_to}; `thinwire status` lists all")
    return found


def _named(where: Where, job: str | None) -> tuple[str, str]:
    """Namespace (empty: all) and name (empty: all) of what was asked for."""
    namespace, slash, name = (job or "").rpartition("/")
    return (namespace if slash else where.namespace), name


def _ask(where: Where, opening: Opening, namespace: str, name: str) -> list[Found]:
    with opening() as endpoint, endpoint.channel() as channel:
        stub = StatusServiceStub(channel)
        try:
            if namespace and name:
                # Who may see one job need not be one who may list them.
                one = pb.GetJobRequest(namespace=namespace, name=name)
                jobs = [stub.GetJob(one, timeout=_ANSWER_SECONDS, metadata=endpoint.metadata).job]
            else:
                asked = pb.ListJobsRequest(namespace=namespace)
                answer = stub.ListJobs(asked, timeout=_ANSWER_SECONDS, metadata=endpoint.metadata)
                jobs = [job for job in answer.jobs if name in ("", job.name)]
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                return []
            if not where.lenient:
                raise endpoint.failed(error) from None
            said = f"thinwire: the controller at {endpoint.label} does not answer ({error.code().name})"
            click.echo(said, err=True)
            return []
    return [Found(opening, endpoint.label, job) for job in jobs]


def _one(where: Where, job: str | None, option: str) -> Found:
    found = _found(where, job)
    if len(found) != 1:
        names = ", ".join(f"{one.job.namespace}/{one.job.name}" for one in found) or "none"
        raise Failed(f"{option} follows one job, and these run here: {names}; name one")
    return found[0]


def _history(where: Where, job: str | None, output: str) -> None:
    found = _one(where, job, "--history")
    asked = pb.GetHistoryRequest(namespace=found.job.namespace, name=found.job.name)
    with found.opening() as endpoint, endpoint.channel() as channel:
        try:
            answer = StatusServiceStub(channel).GetHistory(asked, timeout=_ANSWER_SECONDS, metadata=endpoint.metadata)
        except grpc.RpcError as error:
            raise endpoint.failed(error) from None
    if output == "json":
        click.echo(json.dumps([_as_json(sample) for sample in answer.samples], indent=2))
    else:
        Console(highlight=False).print(tables.history(found.job, list(answer.samples)))


def _watch(where: Where, job: str | None, output: str) -> None:
    changes = _changes(where, _one(where, job, "--watch"))
    if output == "json":
        for one in changes:
            click.echo(json.dumps(_as_json(one)))
        return
    console = Console(highlight=False)
    left = progress.TimeLeft()
    if not console.is_terminal:
        for one in changes:
            click.echo(tables.line(one))
        return
    with Live(console=console, auto_refresh=False) as live:
        for one in changes:
            live.update(tables.detail(one, left.after(one, time.monotonic())), refresh=True)


def _changes(where: Where, found: Found) -> Iterator[pb.JobStatus]:
    """Every change until the end. A cluster's controller may restart meanwhile: it is reached again, for a while."""
    asked = pb.WatchJobRequest(namespace=found.job.namespace, name=found.job.name)
    failures = 0
    while True:
        try:
            with found.opening() as endpoint, endpoint.channel() as channel:
                try:
                    for answer in StatusServiceStub(channel).WatchJob(asked, metadata=endpoint.metadata):
                        failures = 0
                        yield answer.job
                    return
                except grpc.RpcError as error:
                    raise endpoint.failed(error) from None
        except AwayError as error:
            failures += 1
            if failures >= where.tries:
                gone = f"the controller at {found.label} went away"
                raise Failed(f"{gone}: {error.message}") from None
            click.echo(f"thinwire: {error.message}; trying again", err=True)
            time.sleep(min(0.5 * 2**failures, _LONGEST_PAUSE_SECONDS))


def _as_json(message: Message) -> dict[str, object]:
    document: dict[str, object] = json_format.MessageToDict(message, always_print_fields_with_no_presence=True)
    return document
