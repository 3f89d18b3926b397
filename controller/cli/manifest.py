"""From a manifest's file to a job that this machine can run, or to the sentences why not."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import click

from thinwire.controller.cli.errors import Refused
from thinwire.controller.manifest.job import DiffusionJob
from thinwire.controller.manifest.load import Document, load_document
from thinwire.controller.manifest.preflight.check import gpus_of_this_machine, local_preflight, warnings
from thinwire.controller.manifest.refusal import ManifestError, Refusal
from thinwire.controller.manifest.validate import validate
from thinwire.controller.planner import JobPlan, plan_job
from thinwire.controller.planner.auto import settled


def runnable_job(file: Path, output: Path) -> tuple[DiffusionJob, JobPlan]:
    """Read, validate and check `file` for running here into `output`; return the job and its plan.

    Raises:
        Refused: with every reason.
    """
    try:
        document = load_document(file)
    except ManifestError as error:
        raise _refused(file, None, list(error.refusals)) from None
    refusals = validate(document.raw)
    if refusals:
        raise _refused(file, document, refusals)
    try:
        job = settled(DiffusionJob.from_raw(document.raw))
    except ManifestError as error:
        raise _refused(file, document, list(error.refusals)) from None
    planned = plan_job(here(job))
    refusals = list(planned.refusals)
    refusals += local_preflight(job, output, gpus_of_this_machine())
    if job.run_policy.suspend:
        refusals.append(Refusal("spec.runPolicy.suspend", "false for a run here", "true", "set it to false"))
    if refusals:
        raise _refused(file, document, refusals)
    if importlib.util.find_spec("torch") is None:
        raise Refused("expected torch, xfuser and diffusers here, got none; run `pip install 'thinwire[runtime]'`")
    for warning in warnings(job):
        click.echo(f"{file}: warning: {warning}", err=True)
    return job, planned


def here(job: DiffusionJob) -> DiffusionJob:
    """Return the job as it runs on this machine, which has all its ranks."""
    return replace(job, gpus_per_pod=job.gpus)


def _refused(file: Path, document: Document | None, refusals: list[Refusal]) -> Refused:
    lines = []
    for refusal in refusals:
        line = document.line_of(refusal.field) if document else None
        lines.append(f"{file}: {refusal}" if line is None else f"{file}:{line}: {refusal}")
    return Refused("\nthinwire: ".join(lines))
