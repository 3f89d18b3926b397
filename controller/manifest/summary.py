"""One line that says what a job will do."""

from __future__ import annotations

from thinwire.controller.manifest.job import (
    BundledModel,
    ClaimModel,
    Compression,
    CompressionMode,
    DiffusionJob,
    FolderModel,
    ModelSource,
    Parallelism,
)


def summary(job: DiffusionJob) -> str:
    """Say how many pictures, of what size, by which model, on what, with which exchange."""
    generation = job.generation
    count = len(generation.prompts)
    kind = "picture" if generation.num_frames is None else "video"
    pictures = f"{count} {kind}{'' if count == 1 else 's'}" if count else f"the {kind}s of a ConfigMap"
    frames = "" if generation.num_frames is None else f" and {generation.num_frames} frames"
    ranks = f"{job.gpus} rank{'' if job.gpus == 1 else 's'} on {job.accelerator}"
    return (
        f"{pictures} of {generation.width} x {generation.height} pixels{frames} in {generation.steps} steps by "
        f"{described_source(job.model.source)}, {ranks} ({degrees(job.parallelism)}), {_exchange(job.compression)}"
    )


def described_source(source: ModelSource) -> str:
    """Name the model's place for people."""
    match source:
        case BundledModel(name):
            return f"the bundled model {name}"
        case FolderModel(path):
            return f"the model in {path}"
        case ClaimModel(claim, path):
            return f"the model in volume {claim}{'/' if path else ''}{path}"
    return f"{source.repo} at {source.revision}"


def degrees(parallelism: Parallelism) -> str:
    """Name the dimensions that are split."""
    if parallelism.auto:
        return "degrees chosen by thinwire"
    split = {
        "ring": parallelism.ring,
        "ulysses": parallelism.ulysses,
        "pipefusion": parallelism.pipefusion,
        "cfg": parallelism.cfg,
        "data": parallelism.data,
    }
    return " x ".join(f"{name} {degree}" for name, degree in split.items() if degree > 1) or "no exchange"


def _exchange(compression: Compression) -> str:
    least, most = (limit / 1000 for limit in (compression.rate.min_millibits, compression.rate.max_millibits))
    match compression.mode:
        case CompressionMode.OFF:
            return "exchanged uncompressed"
        case CompressionMode.FIXED:
            return f"exchanged at {most:g} bits per value"
    return f"exchanged at {least:g} to {most:g} bits per value"
