"""What the user sees while a job runs: a live panel on a terminal, one line per fact elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Protocol, Self

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from thinwire.controller.cli import progress
from thinwire.controller.planner.announce import plan_sentence
from thinwire.proto.thinwire.v1alpha1.status_pb2 import JobStatus

_PLAIN_EVERY_SECONDS = 10.0


class Display(Protocol):
    """Shows one job. `note` is about the run itself, such as a controller that does not answer."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, job: JobStatus | None, note: str) -> None:
        """Show what is known now."""


def display_for(console: Console, title: str) -> Display:
    """The display that suits where the output goes."""
    return LiveDisplay(console, title) if console.is_terminal else PlainDisplay(title)


class LiveDisplay:
    """A panel that is drawn again and again in one place."""

    def __init__(self, console: Console, title: str) -> None:
        self._title = title
        self._left = progress.TimeLeft()
        self._live = Live(console=console, auto_refresh=False, transient=False)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def show(self, job: JobStatus | None, note: str) -> None:
        """Draw the panel."""
        left = self._left.after(job, time.monotonic()) if job else None
        self._live.update(panel(job, note, self._title, left), refresh=True)


def panel(job: JobStatus | None, note: str, title: str, seconds_left: float | None) -> RenderableType:
    """One job as a panel."""
    lines: list[RenderableType] = [_figures(job, seconds_left) if job else Text("starting")]
    if job is not None and job.last_reason:
        lines.append(Text(f"rate: {job.last_reason}", style="dim"))
    if job is not None and job.message:
        lines.append(Text(job.message))
    if note:
        lines.append(Text(note, style="yellow"))
    state = progress.state_name(job) if job else "starting"
    return Panel(Group(*lines), title=f"{title} · {state}", title_align="left")


def _figures(job: JobStatus, seconds_left: float | None) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column()
    done, total = progress.steps_done(job), progress.steps_total(job)
    grid.add_row("steps", ProgressBar(total=max(total, 1), completed=done, width=40))
    grid.add_row("prompts", f"{job.prompts_done} of {job.prompts_total} done, {progress.duration(seconds_left)} left")
    grid.add_row("now", f"{job.prompt_name or '–'}, step {job.step} of {job.steps}, {job.step_seconds:.2f} s a step")
    grid.add_row("rate", f"{progress.rate(job)} per value")
    grid.add_row("link", progress.links(job))
    if any(link.hidden_share > 0 for link in job.links):
        grid.add_row("hidden", f"{progress.hidden(job)} of the transfers' time, behind computing")
    grid.add_row("error", progress.error(job))
    grid.add_row("sent", progress.saved(job))
    if job.HasField("plan"):
        grid.add_row("plan", plan_sentence(job.plan))
    if job.restarts:
        grid.add_row("restarts", str(job.restarts))
    return grid


class PlainDisplay:
    """Lines for logs: what changed when it changes, and where things stand now and then."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._left = progress.TimeLeft()
        self._state = ""
        self._note = ""
        self._prompts_done = 0
        self._retunes = 0
        self._told_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def show(self, job: JobStatus | None, note: str) -> None:
        """Print what is new."""
        if note != self._note:
            self._note = note
            self._say(note or "the controller answers again")
        if job is not None:
            self._job(job)

    def _job(self, job: JobStatus) -> None:
        left = self._left.after(job, time.monotonic())
        state = f"{progress.state_name(job)}{': ' if job.message else ''}{job.message}"
        if state != self._state:
            self._state = state
            self._say(state)
        for retune in job.retunes[self._retunes :]:
            before, after = retune.from_millibits / 1000, retune.to_millibits / 1000
            self._say(f"step {retune.job_step}: {retune.link_class} {before:g} -> {after:g} bits: {retune.reason}")
        self._retunes = len(job.retunes)
        overdue = bool(job.step) and time.monotonic() - self._told_at > _PLAIN_EVERY_SECONDS
        if job.prompts_done != self._prompts_done or overdue:
            self._prompts_done = job.prompts_done
            self._told_at = time.monotonic()
            self._say(
                f"{job.prompts_done} of {job.prompts_total} prompts, {job.prompt_name or '–'} {job.step}/{job.steps}, "
                f"rate {progress.rate(job)}, link {progress.links(job)}, error {progress.error(job)}, "
                f"{progress.duration(left)} left"
            )

    def _say(self, words: str) -> None:
        click.echo(f"{self._title}: {words}")
