"""What a job becomes as a run of this machine: the RunFile that a controller works from."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from thinwire.controller.cli.manifest import here
from thinwire.controller.local.files import RunFile, StateFolder
from thinwire.controller.manifest.job import CompressionMode, DiffusionJob
from thinwire.controller.manifest.run_spec import run_spec
from thinwire.controller.planner import JobPlan, plan_job
from thinwire.controller.planner.announce import plan_message
from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import EmulatedLinkPhase

SINGLE_MODULE = "thinwire.runtime.single"


def run_file(
    job: DiffusionJob,
    planned: JobPlan | None,
    output: Path,
    link: Sequence[EmulatedLinkPhase],
    calibration: Path | None = None,
) -> RunFile:
    """The job itself, as it is planned here (None: without a plan to tell), in `output` (absolute)."""
    state = StateFolder(output)
    first = max(state.attempts(), default=0) + 1
    spec = run_spec(job, attempt=first, output_dir=output, emulated_link=link)
    if calibration is not None:
        spec.compression.calibration_path = str(calibration.absolute())
    return RunFile(
        run_id=uuid.uuid4().hex,
        namespace=job.namespace,
        name=job.name,
        ranks=job.gpus,
        started_seconds=time.time(),
        first_attempt=first,
        max_restarts=job.run_policy.max_restarts,
        active_deadline_seconds=job.run_policy.active_deadline_seconds,
        run_spec=json_format.MessageToDict(spec, preserving_proto_field_name=True),
        torchrun=[sys.executable, "-m", "torch.distributed.run"],
        ranks_on_cpu=job.accelerator == "cpu",
        plan=_told(job, planned) if planned is not None else {},
    )


def uncompressed(job: DiffusionJob, output: Path, link: Sequence[EmulatedLinkPhase]) -> RunFile:
    """The same pictures on the same ranks over the same link with upstream's own exchange."""
    off = replace(job.compression, mode=CompressionMode.OFF)
    uncoded = replace(job, name=f"{job.name}-uncompressed", compression=off)
    return run_file(uncoded, plan_job(here(uncoded)), output, link)


def single(job: DiffusionJob, output: Path) -> RunFile:
    """The same pictures by plain diffusers in one process, which has no link."""
    alone = run_file(replace(job, name=f"{job.name}-single"), None, output, ())
    return replace(alone, ranks=1, rank_module=SINGLE_MODULE)


def _told(job: DiffusionJob, planned: JobPlan) -> dict[str, Any]:
    return json_format.MessageToDict(plan_message(here(job), planned), preserving_proto_field_name=True)
