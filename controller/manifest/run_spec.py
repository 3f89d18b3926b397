"""The RunSpec of one attempt: what every rank reads before it does anything else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from thinwire.controller.manifest.job import CompressionMode, DiffusionJob, Dtype, PatchMode
from thinwire.controller.manifest.preflight.location import located
from thinwire.proto.thinwire.v1alpha1 import run_spec_pb2 as pb

_DTYPES = {
    Dtype.FLOAT32: pb.DTYPE_FLOAT32,
    Dtype.BFLOAT16: pb.DTYPE_BFLOAT16,
    Dtype.FLOAT16: pb.DTYPE_FLOAT16,
}
_MODES = {
    CompressionMode.ADAPTIVE: pb.COMPRESSION_MODE_ADAPTIVE,
    CompressionMode.FIXED: pb.COMPRESSION_MODE_FIXED,
    CompressionMode.OFF: pb.COMPRESSION_MODE_OFF,
}
_PATCH_MODES = {
    PatchMode.NONE: pb.PATCH_MODE_NONE,
    PatchMode.GATHER: pb.PATCH_MODE_GATHER,
    PatchMode.DISTRIFUSION: pb.PATCH_MODE_DISTRIFUSION,
}


def run_spec(
    job: DiffusionJob,
    *,
    attempt: int,
    output_dir: Path,
    telemetry_address: str = "",
    telemetry_security: pb.TelemetrySecurity | None = None,
    emulated_link: Sequence[pb.EmulatedLinkPhase] = (),
    model_path: Path | None = None,
) -> pb.RunSpec:
    """Derive what attempt number `attempt` (from 1) of `job` is to do.

    `output_dir` is an absolute folder. `model_path` says where the ranks find the model; without it the model is one
    that this machine has.

    Raises:
        ManifestError: the model is not where the manifest says.
        ValueError: only a cluster has the model, and no `model_path` is given.
    """
    folder = model_path or located(job.model.source)
    if folder is None:
        raise ValueError(f"expected a model_path for {job.model.source}, got none; mount it and say where")
    compression, generation = job.compression, job.generation
    return pb.RunSpec(
        job_name=job.name,
        namespace=job.namespace,
        attempt=attempt,
        model=pb.Model(path=str(folder), pipeline=job.model.pipeline or "", dtype=_dtype(job)),
        parallelism=pb.Parallelism(
            ulysses=job.parallelism.ulysses,
            ring=job.parallelism.ring,
            pipefusion=job.parallelism.pipefusion,
            cfg=job.parallelism.cfg,
            data=job.parallelism.data,
            patch_mode=_PATCH_MODES[job.parallelism.patch_mode],
        ),
        compression=pb.Compression(
            mode=_MODES[compression.mode],
            min_millibits=compression.rate.min_millibits,
            max_millibits=compression.rate.max_millibits,
            target_stall_percent=compression.target_stall_percent,
            max_relative_error_milli=compression.max_relative_error_milli,
            warmup_steps=compression.warmup_steps,
            base_memory_mebibytes=compression.base_memory_mebibytes,
            predictor_order=compression.predictor_order,
        ),
        generation=pb.Generation(
            prompts=[
                pb.Prompt(
                    name=prompt.name,
                    prompt=prompt.prompt,
                    negative_prompt=prompt.negative_prompt,
                    seed=prompt.seed,
                )
                for prompt in generation.prompts
            ],
            steps=generation.steps,
            guidance_scale_milli=generation.guidance_scale_milli,
            height=generation.height,
            width=generation.width,
            num_frames=generation.num_frames or 0,
            frames_per_second=generation.frames_per_second if generation.num_frames else 0,
        ),
        output_dir=str(output_dir),
        telemetry_address=telemetry_address,
        telemetry_security=telemetry_security,
        emulated_link=emulated_link,
    )


def _dtype(job: DiffusionJob) -> pb.Dtype.ValueType:
    if job.model.dtype is Dtype.AUTO:
        return pb.DTYPE_FLOAT32 if job.accelerator == "cpu" else pb.DTYPE_BFLOAT16
    return _DTYPES[job.model.dtype]
