"""One run: ranks forked into the nodes of a lab, one variant opened between them, its pictures timed and compared."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import structlog
import torch
import torch.distributed as dist

from bench.sweep.compactfusion_rungs import COMPACTFUSION_RUNGS
from bench.sweep.law import LawHooks
from bench.sweep.variants import Kind, Variant
from tests.netlab.lab import INTERFACE, Lab
from tests.netlab.namespaces import enter
from thinwire.compression import CALIBRATION_FILE, rung_named
from thinwire.proto.thinwire.v1alpha1 import run_spec_pb2 as pb
from thinwire.runtime.exchange.boundary import StepBoundary
from thinwire.runtime.exchange.rates import OFF_MILLIBITS, RateTable
from thinwire.runtime.facts import RecordingHooks, StepFacts
from thinwire.runtime.generate import Session
from thinwire.runtime.parallel import Launch
from thinwire.runtime.picture import Pixels
from thinwire.runtime.reference import Reference

WARM_UP_STEPS = 2


@dataclass(frozen=True, slots=True)
class Setting:
    """What is the same in all runs."""

    model: str
    calibration: str
    steps: int
    guidance: float
    pixels: int
    target_stall_percent: int
    min_millibits: int
    max_relative_error_milli: int
    prompts: tuple[str, ...]
    first_seed: int

    @property
    def is_calibrated(self) -> bool:
        """Whether there are transform rungs: a calibration was named, or the model brings its own."""
        return bool(self.calibration) or (Path(self.model) / CALIBRATION_FILE).exists()

    def spec(self, variant: Variant, first_prompt: int = 0) -> pb.RunSpec:
        """Return the job of a variant that begins with a prompt of that number."""
        mode = pb.COMPRESSION_MODE_FIXED
        if variant.kind in (Kind.UPSTREAM, Kind.PATCHES):
            mode = pb.COMPRESSION_MODE_OFF
        elif variant.adaptive:
            mode = pb.COMPRESSION_MODE_ADAPTIVE
        numbers = [(first_prompt + number) % len(self.prompts) for number in range(variant.pictures)]
        return pb.RunSpec(
            job_name="links",
            namespace="bench",
            attempt=1,
            model=pb.Model(path=self.model, pipeline="StableDiffusion3Pipeline", dtype=pb.DTYPE_BFLOAT16),
            parallelism=pb.Parallelism(
                ring=variant.ring,
                ulysses=variant.ulysses,
                pipefusion=variant.pipefusion,
                patch_mode=variant.patch_mode,
                cfg=1,
                data=1,
            ),
            compression=pb.Compression(
                mode=mode,
                min_millibits=variant.min_millibits or self.min_millibits,
                max_millibits=OFF_MILLIBITS,
                target_stall_percent=self.target_stall_percent,
                max_relative_error_milli=self.max_relative_error_milli if variant.adaptive else 0,
                warmup_steps=1,
                predictor_order=0 if variant.kind is Kind.COMPACTFUSION else 2,
                calibration_path=self.calibration if variant.kind is Kind.THINWIRE else "",
            ),
            generation=pb.Generation(
                prompts=[
                    pb.Prompt(name=str(number), prompt=self.prompts[number], seed=self.first_seed + number)
                    for number in numbers
                ],
                steps=self.steps,
                guidance_scale_milli=round(1000 * self.guidance),
                height=self.pixels,
                width=self.pixels,
            ),
        )


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture. Seconds are medians over its steps, the key frame left out where there is one."""

    seconds: float
    step_seconds: float
    compute_seconds: float
    transfer_seconds: float
    codec_seconds: float
    sent_bytes: int
    """Of all ranks, by the exchange's own count."""
    bytes_per_step: float
    """Of one rank, in such a step."""
    rates: tuple[int, ...]
    """In force step by step, millibits per value that really travel."""
    errors_milli: tuple[int, ...]
    key_frames: tuple[bool, ...]
    reasons: tuple[str, ...]
    estimate_bytes_per_second: float
    """By the controller's estimator, at the end; 0 without it."""


@dataclass(frozen=True, slots=True)
class Made:
    """What rank 0 hands back of one variant: figures and pixels, picture by picture."""

    pictures: tuple[Picture, ...]
    pixels: tuple[Pixels, ...] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class Task:
    """One variant's pictures over links of one rate; fewer `steps` than a whole picture has tell no fidelity."""

    variant: Variant
    bits_per_second: int
    steps: int


def make_alone(launch: Launch, setting: Setting, variant: Variant, first_prompt: int) -> Made:
    """Make the pictures in one process with diffusers alone."""
    _prepare()
    spec = setting.spec(variant, first_prompt)
    reference = Reference.open(spec)
    short = pb.Generation()
    short.CopyFrom(spec.generation)
    short.steps = WARM_UP_STEPS
    replace(reference, generation=short).generate_pixels(spec.generation.prompts[0])
    pictures, pixels = [], []
    for prompt in spec.generation.prompts:
        began = time.perf_counter()
        pixels.append(reference.generate_pixels(prompt))
        seconds = time.perf_counter() - began
        pictures.append(
            Picture(seconds, seconds / setting.steps, seconds / setting.steps, 0, 0, 0, 0, (), (), (), (), 0)
        )
    return Made(tuple(pictures), tuple(pixels))


def make_together(
    launch: Launch,
    setting: Setting,
    lab: Lab,
    tasks: Sequence[Task],
    first_prompt: int,
) -> list[Made]:
    """Make the pictures with the other ranks, each in its own namespace: one task of a session after the other.

    Collective.
    """
    enter(lab.namespace(launch.rank))
    os.environ["GLOO_SOCKET_IFNAME"] = INTERFACE
    _prepare()
    spec = setting.spec(tasks[0].variant, first_prompt)
    hooks = LawHooks(spec) if tasks[0].variant.adaptive else RecordingHooks()
    session = Session.open(spec, hooks, launch)
    all_made = []
    try:
        if isinstance(hooks, LawHooks):
            hooks.begin(session.describe())
        else:
            _command(session, tasks[0].variant)
            _pixels_in(session, spec.generation.prompts[0], WARM_UP_STEPS, 0)
        for task in tasks:
            _command(session, task.variant)
            dist.barrier(group=session.world.control)
            if launch.rank == 0:
                lab.shape_all(task.bits_per_second)
            all_made.append(_made(session, hooks, spec.generation.prompts, task.steps, setting.steps))
    finally:
        session.close()
    return all_made


def _made(
    session: Session, hooks: RecordingHooks | LawHooks, prompts: Sequence[pb.Prompt], made_steps: int, whole: int
) -> Made:
    pictures, pixels = [], []
    for number, prompt in enumerate(prompts):
        hooks.steps.clear()
        sent_before = _sent_bytes(session)
        dist.barrier(group=session.world.control)
        began = time.perf_counter()
        made = _pixels_in(session, prompt, made_steps, number * whole)
        dist.barrier(group=session.world.control)
        seconds = time.perf_counter() - began
        if made:
            pixels.extend(made)
            picture = _picture(seconds, hooks, _sent_bytes(session) - sent_before, session.world.size)
            pictures.append(replace(picture, seconds=seconds + (whole - made_steps) * picture.step_seconds))
    return Made(tuple(pictures), tuple(pixels))


def _prepare() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    torch.set_num_threads(1)


def _pixels_in(session: Session, prompt: pb.Prompt, steps: int, first_job_step: int) -> list[Pixels]:
    """Make a picture in so many steps. A short one first makes connections, and what libraries make at first use."""
    generation = pb.Generation()
    generation.CopyFrom(session.generation)
    generation.steps = steps
    return replace(session, generation=generation).generate_pixels([prompt], first_job_step=first_job_step)


def _command(session: Session, variant: Variant) -> None:
    """Put exactly the variant's rung in force, as a directive with its price would."""
    torch.set_num_threads(1)
    steps = session.exchange.steps
    if not variant.rung or not isinstance(steps, StepBoundary):
        return
    dtype, table = session.model.dtype, steps.policy.table
    if variant.kind is Kind.COMPACTFUSION:
        rung = next(rung for rung in COMPACTFUSION_RUNGS if rung.name == variant.rung)
        off, millibits = session.traffic.millibits(None, dtype), session.traffic.millibits(rung, dtype)
        table = RateTable(((None, off), (rung, millibits)))
        steps.streams.plan = replace(steps.streams.plan, coded_key_frames=False)
    else:
        # By its price: where PipeFusion's hidden states bear no basis, rungs that are coded alike share one.
        named = None if variant.rung == "off" else rung_named(variant.rung)
        millibits = session.traffic.millibits(named, dtype)
        if millibits not in [price for _, price in table.choices]:
            choices = ", ".join(f"{rung.name if rung else 'off'} {price}" for rung, price in table.choices)
            raise ValueError(f"{variant.name}: expected a rung of {choices} millibits, got {variant.rung} {millibits}")
    steps.policy = replace(steps.policy, table=table)
    steps.state = replace(steps.state, rates=dict.fromkeys(steps.state.rates, millibits))


def _sent_bytes(session: Session) -> int:
    steps = session.exchange.steps
    return steps.counters.sent_bytes if isinstance(steps, StepBoundary) else 0


def _picture(seconds: float, hooks: RecordingHooks | LawHooks, sent_bytes: int, ranks: int) -> Picture:
    steps = hooks.steps
    usual = [facts for facts in steps[1:] if not facts.key_frame]

    def middle(figure: Any) -> float:
        return float(torch.tensor([float(figure(facts)) for facts in usual]).median())

    return Picture(
        seconds=seconds,
        step_seconds=middle(lambda facts: facts.step_seconds),
        compute_seconds=middle(lambda facts: facts.compute_seconds),
        transfer_seconds=middle(lambda facts: sum(window.sum_seconds for window in facts.windows)),
        codec_seconds=middle(lambda facts: sum(w.encode_seconds + w.decode_seconds for w in facts.windows)),
        sent_bytes=sent_bytes or (steps[-1].bytes_sent - steps[0].bytes_sent) * len(steps) // (len(steps) - 1),
        bytes_per_step=middle(lambda facts: _bytes_per_rank(facts, steps, ranks)),
        rates=tuple(next(iter(facts.rates.values())) for facts in steps),
        errors_milli=tuple(round(1000 * facts.max_relative_error) for facts in steps),
        key_frames=tuple(facts.key_frame for facts in steps),
        reasons=tuple(retune.reason for facts in steps for retune in facts.retunes),
        estimate_bytes_per_second=hooks.bytes_per_second if isinstance(hooks, LawHooks) else 0.0,
    )


def _bytes_per_rank(facts: StepFacts, steps: Sequence[StepFacts], ranks: int) -> float:
    if facts.windows:
        return sum(window.sum_bytes for window in facts.windows)  # one group: what each of its ranks sends
    return (steps[-1].bytes_sent - steps[0].bytes_sent) / (len(steps) - 1) / ranks
