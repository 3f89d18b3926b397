"""Reports as rank 0 would send them."""

from __future__ import annotations

from thinwire.proto.thinwire.v1alpha1 import telemetry_pb2 as pb

RUNGS = (("off", 32000), ("int8", 8200), ("int4", 4200), ("bits3", 3200), ("bits2", 2200), ("bits1", 1200))
STEPS = 28
VALUES = 1_500_000


def hello(sequence: int = 1, **changed: object) -> pb.ReportRequest:
    message = pb.Hello(
        job_name="emoji",
        namespace="default",
        attempt=1,
        world_size=4,
        ladder=[pb.LadderRung(name=name, millibits=millibits) for name, millibits in RUNGS],
        traffic=[pb.LinkClassTraffic(link_class="intra-node", values_per_step=VALUES, operations_per_step=24)],
        policy=pb.RatePolicy(
            adaptive=True,
            min_millibits=1000,
            max_millibits=16000,
            target_stall_percent=15,
            max_relative_error_milli=300,
            warmup_steps=2,
        ),
        prompts_total=2,
        steps_per_prompt=STEPS,
        rates=[pb.LinkClassRate(link_class="intra-node", millibits=32000)],
    )
    for name, value in changed.items():
        setattr(message, name, value)
    return pb.ReportRequest(sequence=sequence, hello=message)


def step(
    sequence: int,
    job_step: int,
    *,
    bytes_per_second: float = 50e6,
    millibits: int = 32000,
    epoch: int = 0,
    compute_seconds: float = 0.25,
    hidden_share: float = 0.0,
) -> pb.ReportRequest:
    key_frame = job_step % STEPS < 2
    size = VALUES * (32000 if key_frame else millibits) / 8000
    seconds = 24 * 1e-4 + size / bytes_per_second
    window = pb.Window(
        link_class="intra-node",
        operation="ring.all_gather",
        count=24,
        sum_bytes=size,
        sum_seconds=seconds,
        sum_bytes_squared=size * size / 24,
        sum_bytes_seconds=size * seconds / 24,
        sum_seconds_squared=seconds * seconds / 24,
        min_seconds=seconds / 24,
        max_seconds=seconds / 24,
        values=VALUES,
        hidden_seconds=hidden_share * seconds,
    )
    report = pb.StepReport(
        job_step=job_step,
        prompt_name=f"prompt-{job_step // STEPS}",
        step=job_step % STEPS,
        step_seconds=compute_seconds + seconds,
        compute_seconds=compute_seconds,
        epoch=epoch,
        rates=[pb.LinkClassRate(link_class="intra-node", millibits=millibits)],
        key_frame=key_frame,
        windows=[window],
        bytes_sent=int(size) * (job_step + 1),
        bytes_uncompressed=int(VALUES * 4) * (job_step + 1),
    )
    return pb.ReportRequest(sequence=sequence, step=report)
