"""Jobs as text: a table of many, one in full, one as a line, and the steps of one."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from thinwire.controller.cli import progress
from thinwire.controller.cli.display import panel
from thinwire.controller.policy.explain import size
from thinwire.proto.thinwire.v1alpha1 import status_pb2 as pb

_RETUNES_SHOWN = 10
_SAMPLES_SHOWN = 40


def jobs(found: Sequence[tuple[pb.JobStatus, str]]) -> Table:
    """One row per job, with the controller that knows it."""
    table = _table("JOB", "STATE", "PROMPTS", "STEP", "RATE", "LINK", "ERROR", "CONTROLLER")
    for job, controller in found:
        table.add_row(
            f"{job.namespace}/{job.name}",
            progress.state_name(job),
            f"{job.prompts_done}/{job.prompts_total}",
            f"{job.step}/{job.steps}",
            progress.rate(job),
            progress.links(job),
            progress.error(job),
            controller,
        )
    return table


def detail(job: pb.JobStatus, seconds_left: float | None = None) -> Group:
    """A panel, and the last retunes with their reasons."""
    shown = [panel(job, "", f"{job.namespace}/{job.name}", seconds_left)]
    if job.retunes:
        table = _table("STEP", "LINK", "FROM", "TO", "WHY")
        for retune in job.retunes[-_RETUNES_SHOWN:]:
            before, after = f"{retune.from_millibits / 1000:g}", f"{retune.to_millibits / 1000:g}"
            table.add_row(str(retune.job_step), retune.link_class, before, after, retune.reason)
        shown.append(table)
    return Group(*shown)


def line(job: pb.JobStatus) -> str:
    """Everything that changes, in one line."""
    return (
        f"{job.namespace}/{job.name}: {progress.state_name(job)}, {job.prompts_done}/{job.prompts_total} prompts, "
        f"step {job.step}/{job.steps}, rate {progress.rate(job)}, link {progress.links(job)}, "
        f"error {progress.error(job)}"
    )


def history(job: pb.JobStatus, samples: Sequence[pb.Sample]) -> Group:
    """The last steps, oldest first, and how many there are."""
    table = _table("STEP", "PROMPT", "OF IT", "SECONDS", "COMPUTING", "RATE", "LINK", "HIDDEN", "ERROR", "SENT")
    for sample in samples[-_SAMPLES_SHOWN:]:
        as_job = pb.JobStatus(links=sample.links, step=sample.step, max_relative_error=sample.max_relative_error)
        table.add_row(
            str(sample.job_step),
            sample.prompt_name,
            f"{sample.step}/{job.steps}",
            f"{sample.step_seconds:.3f}",
            f"{sample.compute_seconds:.3f}",
            progress.rate(as_job),
            progress.links(as_job),
            progress.hidden(as_job),
            progress.error(as_job),
            size(sample.bytes_sent),
        )
    shown = min(len(samples), _SAMPLES_SHOWN)
    return Group(table, Text(f"{shown} of {len(samples)} steps that are remembered; -o json prints all", style="dim"))


def _table(*headings: str) -> Table:
    table = Table(box=None, padding=(0, 2))
    for heading in headings:
        table.add_column(heading)
    return table
