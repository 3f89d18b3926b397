"""One run: ranks forked into the nodes of a lab, one variant opened between them, its pictures timed and compared."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import structlog
import torch
import torch.distributed as dist

from bench.sweep.compactfusion_rungs import COMPACTFUSION_RUNGS
from bench.sweep.law import LawHooks
from bench.sweep.variants import Kind, Variant
from tests.netlab.lab import INTERFACE
from tests.netlab.namespaces import enter
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
                min_millibits=self.min_millibits,
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
    """What rank 0 hands back: figures and pixels, picture by picture; and what all ranks sent since they met."""

    pictures: tuple[Picture, ...]
    pixels: tuple[Pixels, ...] = field(default_factory=tuple)


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
    launch: Launch, setting: Setting, variant: Variant, first_prompt: int, namespaces: Sequence[str]
) -> Made:
    """Make the pictures with the other ranks, each in its own namespace. Collective."""
    if namespaces:
        enter(namespaces[launch.rank])
        os.environ["GLOO_SOCKET_IFNAME"] = INTERFACE
    _prepare()
    spec = setting.spec(variant, first_prompt)
    hooks = LawHooks(spec) if variant.adaptive else RecordingHooks()
    session = Session.open(spec, hooks, launch)
    pictures, pixels = [], []
    try:
        _command(session, variant)
        if isinstance(hooks, LawHooks):
            hooks.begin(session.describe())
        else:
            _warm_up(session, spec)
        for number, prompt in enumerate(spec.generation.prompts):
            hooks.steps.clear()
            sent_before = _sent_bytes(session)
            dist.barrier()
            began = time.perf_counter()
            made = session.generate_pixels([prompt], first_job_step=number * setting.steps)
            dist.barrier()
            seconds = time.perf_counter() - began
            if made:
                pixels.extend(made)
                pictures.append(_picture(seconds, hooks, _sent_bytes(session) - sent_before, launch.world_size))
    finally:
        session.close()
    return Made(tuple(pictures), tuple(pixels))


def _prepare() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    torch.set_num_threads(1)


def _warm_up(session: Session, spec: pb.RunSpec) -> None:
    """Make connections, and whatever libraries make at first use, before anything is timed."""
    short = pb.Generation()
    short.CopyFrom(spec.generation)
    short.steps = WARM_UP_STEPS
    replace(session, generation=short).generate_pixels(spec.generation.prompts[:1], first_job_step=0)


def _command(session: Session, variant: Variant) -> None:
    """Put exactly the variant's rung in force, as a directive with its price would."""
    torch.set_num_threads(1)
    steps = session.exchange.steps
    if not variant.rung or not isinstance(steps, StepBoundary):
        return
    table = steps.policy.table
    if variant.kind is Kind.COMPACTFUSION:
        rungs = [rung for rung in COMPACTFUSION_RUNGS if rung.name == variant.rung]
        dtype = session.model.dtype
        prices = [(rung, session.traffic.millibits(rung, dtype)) for rung in rungs]
        table = RateTable(((None, session.traffic.millibits(None, dtype)), *prices))
        steps.streams.plan = replace(steps.streams.plan, coded_key_frames=False)
    steps.policy = replace(steps.policy, table=table)
    millibits = next(
        price for rung, price in table.choices if (variant.rung if rung is not None else "off") == _name(rung, variant)
    )
    steps.state = replace(steps.state, rates=dict.fromkeys(steps.state.rates, millibits))


def _name(rung: Any, variant: Variant) -> str:
    return "off" if rung is None and variant.rung == "off" else getattr(rung, "name", "")


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
