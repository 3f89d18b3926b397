"""How long a step, and a job, will take with given degrees on a given machine (docs/planner.md has the formulas)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from thinwire.controller.manifest.job import CompressionMode, DiffusionJob, Parallelism
from thinwire.controller.planner.job_plan import JobPlan, LinkPlan, RungBytes
from thinwire.controller.planner.layout import LinkClass
from thinwire.controller.planner.machine import Machine
from thinwire.controller.planner.rungs import CALIBRATED_LADDER, OFF

_DISTORTIONS = {rung.name: rung.distortion for rung in CALIBRATED_LADDER}


@dataclass(frozen=True, slots=True)
class Prediction:
    """What degrees cost: seconds of a step, of which exchanged and coded; seconds of the job; rung by link class."""

    parallelism: Parallelism
    compute_seconds: float
    exchange_seconds: float
    step_seconds: float
    job_seconds: float
    rungs: Mapping[LinkClass, str]
    distortion: float
    """Share of a residual's energy that the coarsest of the rungs loses."""


def predict(job: DiffusionJob, planned: JobPlan, machine: Machine) -> Prediction:
    """Predict a job whose plan is known; nothing of exchange and codec is hidden behind computing."""
    degrees = job.parallelism
    shared = degrees.sequence * degrees.cfg * degrees.pipefusion
    compute = machine.step_seconds / shared
    stall_allowed = job.compression.target_stall_percent / 100 * compute / max(1, len(planned.links))
    exchange = key_exchange = 0.0
    chosen: dict[LinkClass, str] = {}
    for link in planned.links:
        rung = _rung(job, link, machine, stall_allowed)
        exchange += _seconds(link, rung, rung.step_bytes, machine)
        key_exchange += _seconds(link, rung, rung.key_frame_bytes, machine)
        chosen[link.link_class] = rung.rung
    steps = job.generation.steps
    key_steps = min(max(1, job.compression.warmup_steps), steps)
    prompts = max(1, len(job.generation.prompts))
    of_a_prompt = steps * compute + key_steps * key_exchange + (steps - key_steps) * exchange
    return Prediction(
        parallelism=degrees,
        compute_seconds=compute,
        exchange_seconds=exchange,
        step_seconds=compute + exchange,
        job_seconds=math.ceil(prompts / degrees.data) * of_a_prompt,
        rungs=chosen,
        distortion=max((_DISTORTIONS.get(name, 0.0) for name in chosen.values()), default=0.0),
    )


def _rung(job: DiffusionJob, link: LinkPlan, machine: Machine, stall_allowed: float) -> RungBytes:
    """Return what the job would run at: the least lossy rung that stalls no longer than allowed, else the fastest."""
    usable: Sequence[RungBytes] = [one for one in link.rungs if one.within_limits]
    if job.compression.mode is not CompressionMode.ADAPTIVE:
        return usable[0]
    for rung in usable:  # from least to most loss
        if _seconds(link, rung, rung.step_bytes, machine) <= stall_allowed:
            return rung
    return min(usable, key=lambda rung: _seconds(link, rung, rung.step_bytes, machine))


def _seconds(link: LinkPlan, rung: RungBytes, sent_bytes: int, machine: Machine) -> float:
    line = machine.links[link.link_class]
    codec = 0.0 if rung.rung == OFF else link.values_per_step * machine.codec_seconds_per_value
    return link.operations_per_step * line.fixed_seconds + sent_bytes / line.bytes_per_second + codec
