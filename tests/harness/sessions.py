"""Whole sessions in forked ranks: what a test says about a job, and what every rank saw of it."""

import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import structlog
import torch

from tests.harness.ranks import run_ranks
from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import (
    Compression,
    CompressionMode,
    Dtype,
    EmulatedLinkPhase,
    Generation,
    Model,
    Parallelism,
    PatchMode,
    Prompt,
    RunSpec,
)
from thinwire.runtime.exchange.boundary import StepBoundary
from thinwire.runtime.facts import Directive, RecordingHooks, RunFacts, StepFacts
from thinwire.runtime.generate import Session
from thinwire.runtime.parallel import Launch
from thinwire.runtime.picture import Pixels

OFF = CompressionMode.COMPRESSION_MODE_OFF
FIXED = CompressionMode.COMPRESSION_MODE_FIXED
ADAPTIVE = CompressionMode.COMPRESSION_MODE_ADAPTIVE
GATHER = PatchMode.PATCH_MODE_GATHER
DISTRIFUSION = PatchMode.PATCH_MODE_DISTRIFUSION
SD3 = "StableDiffusion3Pipeline"
FLUX = "FluxPipeline"


@dataclass(frozen=True)
class Job:
    """A job on a tiny model; every field has a value that most tests can keep."""

    folder: Path
    pipeline: str = SD3
    ulysses: int = 1
    ring: int = 2
    cfg: int = 1
    pipefusion: int = 1
    data: int = 1
    patch_mode: int = PatchMode.PATCH_MODE_NONE
    mode: int = FIXED
    millibits: int = 4000
    steps: int = 4
    warmup_steps: int = 1
    pixels: int = 64
    num_frames: int = 0
    max_relative_error_milli: int = 0
    base_memory_mebibytes: int = 0
    link: tuple[tuple[int, int], ...] = ()
    """(from step, bits per second)."""
    ranks_per_node: int | None = None
    directives: tuple[Directive | None, ...] = ()
    prompts: tuple[str, ...] = ("a red heart",)
    dtype: int = Dtype.DTYPE_FLOAT32
    calibration: Path | None = None

    @property
    def world_size(self) -> int:
        """Ranks to start."""
        return self.ulysses * self.ring * self.cfg * self.pipefusion * self.data

    def spec(self) -> RunSpec:
        """Return it as the controller would."""
        return RunSpec(
            job_name="test",
            attempt=1,
            model=Model(path=str(self.folder), pipeline=self.pipeline, dtype=self.dtype),
            parallelism=Parallelism(
                ulysses=self.ulysses,
                ring=self.ring,
                cfg=self.cfg,
                pipefusion=self.pipefusion,
                data=self.data,
                patch_mode=self.patch_mode,
            ),
            compression=Compression(
                mode=self.mode,
                min_millibits=1000,
                max_millibits=self.millibits,
                max_relative_error_milli=self.max_relative_error_milli,
                warmup_steps=self.warmup_steps,
                base_memory_mebibytes=self.base_memory_mebibytes,
                predictor_order=2,
                calibration_path=str(self.calibration or ""),
            ),
            generation=Generation(
                prompts=[
                    Prompt(name=f"p{number}", prompt=text, seed=number) for number, text in enumerate(self.prompts)
                ],
                steps=self.steps,
                guidance_scale_milli=3000,
                height=self.pixels,
                width=self.pixels,
                num_frames=self.num_frames,
            ),
            emulated_link=[EmulatedLinkPhase(from_step=step, bits_per_second=rate) for step, rate in self.link],
        )


@dataclass
class Seen:
    """What one rank saw of a job."""

    pictures: list[Pixels] = field(default_factory=list)
    steps: list[StepFacts] = field(default_factory=list)
    facts: RunFacts | None = None
    checksums: list[tuple[list[int], list[int]]] = field(default_factory=list)
    """After every step: of all bases sent to each rank, and of all heard from each."""
    base_bytes: int = 0


Meddle = Callable[[Launch], Any]
"""Returns a context manager that changes something in one rank for the whole session."""


def run_job(
    job: Job, meddle: Meddle | None = None, timeout_seconds: float = 120.0, never_ending: Collection[int] = ()
) -> list[Seen]:
    """Run a job and return what every rank saw, by rank."""
    return run_ranks(
        job.world_size,
        _live,
        job,
        meddle,
        local_world_size=job.ranks_per_node,
        timeout_seconds=timeout_seconds,
        never_ending=never_ending,
    )


def pictures_of(seen: Sequence[Seen]) -> list[Pixels]:
    """Return rank 0's pictures; the other ranks must have none."""
    assert all(not other.pictures for other in seen[1:])
    return seen[0].pictures


def assert_bases_agree(seen: Sequence[Seen]) -> None:
    """Check that after every step the bases at both ends of every pair of ranks are the same, bit for bit."""
    for step in range(len(seen[0].checksums)):
        for source in range(len(seen)):
            for destination in range(len(seen)):
                if source != destination:
                    sent = seen[source].checksums[step][0][destination]
                    heard = seen[destination].checksums[step][1][source]
                    assert sent == heard, f"bases from rank {source} to {destination} differ after step {step}"


def _live(launch: Launch, job: Job, meddle: Meddle | None) -> Seen:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    hooks, seen = RecordingHooks(job.directives), Seen()
    spec = job.spec()
    with ExitStack() as stack:
        if meddle is not None:
            stack.enter_context(meddle(launch))
        stack.enter_context(_checksums_kept(seen))
        session = Session.open(spec, hooks, launch)
        stack.callback(session.close)
        torch.set_num_threads(1)
        seen.facts = session.describe()
        prompts = spec.generation.prompts
        for first in range(0, len(prompts), session.replicas):
            round_of = prompts[first : first + session.replicas]
            seen.pictures.extend(session.generate_pixels(round_of, first_job_step=first * job.steps))
        seen.steps = hooks.steps
        if isinstance(session.exchange.steps, StepBoundary):
            seen.base_bytes = session.exchange.steps.streams.base_bytes
    return seen


def _checksums_kept(seen: Seen) -> Any:
    end_step = StepBoundary.end_step

    def end_step_and_keep(self: StepBoundary) -> None:
        seen.checksums.append(self.streams.checksums(self.world.size, self.audiences))
        end_step(self)

    return patch.object(StepBoundary, "end_step", end_step_and_keep)
