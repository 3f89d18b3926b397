"""Facts of the runtime as the protobuf messages that the controller reads."""

from dataclasses import asdict

from thinwire.proto.thinwire.v1alpha1 import telemetry_pb2 as pb
from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import COMPRESSION_MODE_ADAPTIVE, RunSpec
from thinwire.runtime.facts import Retune, RunFacts, StepFacts


def hello(spec: RunSpec, facts: RunFacts, *, prompts_finished: int) -> pb.Hello:
    """Return what the controller needs to know before the first step of this attempt."""
    compression = spec.compression
    return pb.Hello(
        job_name=spec.job_name,
        namespace=spec.namespace,
        attempt=spec.attempt,
        world_size=facts.world_size,
        ladder=[pb.LadderRung(**asdict(rung)) for rung in facts.ladder],
        traffic=[pb.LinkClassTraffic(**asdict(traffic)) for traffic in facts.traffic],
        policy=pb.RatePolicy(
            adaptive=compression.mode == COMPRESSION_MODE_ADAPTIVE,
            min_millibits=compression.min_millibits,
            max_millibits=compression.max_millibits,
            target_stall_percent=compression.target_stall_percent,
            max_relative_error_milli=compression.max_relative_error_milli,
            warmup_steps=compression.warmup_steps,
        ),
        prompts_total=len(spec.generation.prompts),
        prompts_done=prompts_finished,
        steps_per_prompt=spec.generation.steps,
        rates=[pb.LinkClassRate(link_class=name, millibits=rate) for name, rate in facts.rates.items()],
        link_is_emulated=facts.link_is_emulated,
        version=facts.versions.get("thinwire", ""),
    )


def bare_hello(spec: RunSpec) -> pb.Hello:
    """Return who is speaking, for an attempt that ended before its ranks had met."""
    return pb.Hello(
        job_name=spec.job_name,
        namespace=spec.namespace,
        attempt=spec.attempt,
        prompts_total=len(spec.generation.prompts),
        steps_per_prompt=spec.generation.steps,
        link_is_emulated=bool(spec.emulated_link),
    )


def step_report(facts: StepFacts, *, wall_time: float) -> pb.StepReport:
    """Return one step as the controller hears it; `wall_time` is in seconds since the epoch."""
    return pb.StepReport(
        job_step=facts.job_step,
        prompt_name=facts.prompt,
        step=facts.step,
        step_seconds=facts.step_seconds,
        compute_seconds=facts.compute_seconds,
        max_relative_error=facts.max_relative_error,
        epoch=facts.epoch,
        rates=[pb.LinkClassRate(link_class=name, millibits=rate) for name, rate in facts.rates.items()],
        key_frame=facts.key_frame,
        windows=[pb.Window(**asdict(window)) for window in facts.windows],
        bytes_sent=facts.bytes_sent,
        bytes_uncompressed=facts.bytes_uncompressed,
        frames_refused=facts.frames_refused,
        key_frames_forced=facts.key_frames_forced,
        base_mismatches=facts.base_mismatches,
        base_memory_bytes=facts.base_memory_bytes,
        wall_time=wall_time,
    )


def retune(applied: Retune) -> pb.Retune:
    """Return a directive as it was applied."""
    return pb.Retune(
        job_step=applied.job_step,
        prompt_name=applied.prompt,
        step=applied.step,
        epoch=applied.epoch,
        link_class=applied.link_class,
        from_millibits=applied.from_millibits,
        to_millibits=applied.to_millibits,
        reason=applied.reason,
    )
