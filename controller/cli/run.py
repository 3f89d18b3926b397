"""`thinwire run FILE`: a manifest's prompts become pictures on this machine, without a cluster."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console

from thinwire.controller.cli.compare import others, print_comparison, write_comparison
from thinwire.controller.cli.display import display_for
from thinwire.controller.cli.errors import Refused
from thinwire.controller.cli.link import parse_link
from thinwire.controller.cli.lock import locked
from thinwire.controller.cli.manifest import runnable_job
from thinwire.controller.cli.prepare import run_file
from thinwire.controller.cli.report import print_summary, write_report
from thinwire.controller.cli.supervise import Outcome, Stop, Supervisor
from thinwire.controller.local.files import RunFile, StateFolder

_LOG_COLUMNS = 120


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--output", type=click.Path(path_type=Path), help="Folder for pictures and report; default: <FILE's name>-pictures."
)
@click.option("--compare", is_flag=True, help="Also make the pictures uncompressed and in one process, and compare.")
@click.option("--emulate-link", metavar="RATE[@STEP],...", help="Pace what each rank sends: 400Mbit,40Mbit@60.")
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    help="File of `thinwire calibrate`; default: the one in the model.",
)
@click.option("--port", default=0, help="Port of the controller on 127.0.0.1; 0 takes a free one.")
def run(
    file: Path, output: Path | None, compare: bool, emulate_link: str | None, calibration: Path | None, port: int
) -> None:
    """Turn the prompts of a DiffusionJob into pictures, on this machine.

    Called again it makes only what is missing. Ctrl-C ends the ranks; finished pictures stay.
    """
    link = parse_link(emulate_link) if emulate_link is not None else ()
    if not 0 <= port <= 65535:
        raise Refused(f"--port: expected 0 to 65535, got {port}; name another")
    output = (output or Path(f"{file.stem}-pictures")).absolute()
    job, planned = runnable_job(file, output)
    console = plain_console()
    with Stop().listening() as stop, locked(StateFolder(output).lock):
        outcome = _supervised(console, output, run_file(job, planned, output, link, calibration), port, stop)
        compared = others(job, output, link) if compare and outcome.exit_code == 0 else ()
        last_output = output
        for other in compared:
            if outcome.exit_code == 0:
                last_output = other.output
                outcome = _supervised(console, last_output, other.run, 0, stop)
        if compared and outcome.exit_code == 0:
            write_comparison(output, compared)
        report = write_report(output)
        if report is not None:
            print_summary(console, output, report)
        if compared and report is not None and outcome.exit_code == 0:
            print_comparison(console, output, report)
    if outcome.exit_code:
        _say_why(outcome, last_output)
        sys.exit(outcome.exit_code)


def plain_console() -> Console:
    """A console whose tables stay readable in logs."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_LOG_COLUMNS)


def _supervised(console: Console, output: Path, run: RunFile, port: int, stop: Stop) -> Outcome:
    with display_for(console, run.name) as display:
        return Supervisor(output, run, port, display, stop).run()


def _say_why(outcome: Outcome, output: Path) -> None:
    if outcome.interrupted:
        click.echo("thinwire: interrupted; the same command goes on where it stopped", err=True)
        return
    state = StateFolder(output)
    last = max(state.attempts(), default=0)
    where = f" (logs: {state.log(last)})" if last and outcome.exit_code != Refused.exit_code else ""
    click.echo(f"thinwire: {outcome.message}{where}", err=True)
