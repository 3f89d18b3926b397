"""A DiffusionJob as the rest of the controller knows it: frozen, complete, valid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from thinwire.controller.manifest.defaults import defaulted

DEFAULT_FRAMES_PER_SECOND = 8


@dataclass(frozen=True, slots=True)
class BundledModel:
    """A model that comes with thinwire."""

    name: str


@dataclass(frozen=True, slots=True)
class FolderModel:
    """A folder on the machine, or in the image, of the ranks."""

    path: str


@dataclass(frozen=True, slots=True)
class ClaimModel:
    """A folder of a volume in the cluster."""

    claim_name: str
    path: str


@dataclass(frozen=True, slots=True)
class HubModel:
    """A repository of the Hugging Face hub; the token's Secret and key, if it needs one."""

    repo: str
    revision: str
    token_secret: tuple[str, str] | None


ModelSource = BundledModel | FolderModel | ClaimModel | HubModel


class Dtype(StrEnum):
    """Type of weights and activations."""

    AUTO = "Auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class CompressionMode(StrEnum):
    """Who chooses the rate."""

    ADAPTIVE = "Adaptive"
    FIXED = "Fixed"
    OFF = "Off"


class PatchMode(StrEnum):
    """How ranks of the ring see each other's tokens."""

    NONE = "None"
    GATHER = "Gather"
    DISTRIFUSION = "DistriFusion"


@dataclass(frozen=True, slots=True)
class Model:
    """Where the model is and how it runs; `pipeline` is None where model_index.json decides."""

    source: ModelSource
    pipeline: str | None
    dtype: Dtype


@dataclass(frozen=True, slots=True)
class Parallelism:
    """Degrees, whose product is the job's gpus unless thinwire is to choose them (`auto`).

    `link_mebibytes_per_second` is what the owner says that a rank can send to other nodes, None where nobody says.
    """

    ulysses: int
    ring: int
    pipefusion: int
    cfg: int
    data: int
    patch_mode: PatchMode
    auto: bool = False
    link_mebibytes_per_second: int | None = None

    @property
    def sequence(self) -> int:
        """Ranks that share the tokens of one picture."""
        return self.ulysses * self.ring


@dataclass(frozen=True, slots=True)
class Rate:
    """Limits in millibits per value."""

    min_millibits: int
    max_millibits: int


@dataclass(frozen=True, slots=True)
class Compression:
    """How the exchange is compressed; `base_memory_mebibytes` 0 is no limit."""

    mode: CompressionMode
    rate: Rate
    target_stall_percent: int
    max_relative_error_milli: int
    warmup_steps: int
    base_memory_mebibytes: int
    predictor_order: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """One picture, images/NAME.png."""

    name: str
    prompt: str
    negative_prompt: str
    seed: int


@dataclass(frozen=True, slots=True)
class ConfigMapKey:
    """A key of a ConfigMap in the job's namespace."""

    name: str
    key: str


@dataclass(frozen=True, slots=True)
class Generation:
    """What is drawn; `prompts` is empty where `prompts_from` has them. Sizes in pixels.

    `num_frames` is None for pictures.
    """

    prompts: tuple[Prompt, ...]
    prompts_from: ConfigMapKey | None
    steps: int
    guidance_scale_milli: int
    height: int
    width: int
    num_frames: int | None
    frames_per_second: int


@dataclass(frozen=True, slots=True)
class OutputClaim:
    """A folder of a volume in the cluster; an empty path is a folder with the job's name."""

    claim_name: str
    path: str


@dataclass(frozen=True, slots=True)
class RunPolicy:
    """When the job runs, and for how long."""

    suspend: bool
    active_deadline_seconds: int | None
    ttl_seconds_after_finished: int | None
    max_restarts: int


@dataclass(frozen=True, slots=True)
class DiffusionJob:
    """A valid manifest with its defaults."""

    name: str
    namespace: str
    labels: Mapping[str, str]
    model: Model
    gpus: int
    gpus_per_pod: int
    accelerator: str
    parallelism: Parallelism
    compression: Compression
    generation: Generation
    output: OutputClaim | None
    run_policy: RunPolicy
    pod_template: Mapping[str, Any]

    @classmethod
    def from_raw(cls, raw: dict[str, Any]) -> DiffusionJob:
        """Take over `raw`, for which `validate` has no refusal; defaults are set here."""
        job = defaulted(raw)
        metadata, spec = job["metadata"], job["spec"]
        return cls(
            name=metadata["name"],
            namespace=metadata.get("namespace") or "default",
            labels=metadata.get("labels") or {},
            model=Model(
                source=_source(spec["model"]["source"]),
                pipeline=spec["model"].get("pipeline"),
                dtype=Dtype(spec["model"]["dtype"]),
            ),
            gpus=spec["gpus"],
            gpus_per_pod=spec["gpusPerPod"],
            accelerator=spec["accelerator"],
            parallelism=_parallelism(spec["parallelism"]),
            compression=_compression(spec["compression"]),
            generation=_generation(spec["generation"]),
            output=_output(spec.get("output")),
            run_policy=_run_policy(spec["runPolicy"]),
            pod_template=spec.get("podTemplate", {}),
        )


def _source(raw: Mapping[str, Any]) -> ModelSource:
    if "bundled" in raw:
        return BundledModel(raw["bundled"])
    if "path" in raw:
        return FolderModel(raw["path"])
    if "persistentVolumeClaim" in raw:
        claim = raw["persistentVolumeClaim"]
        return ClaimModel(claim["claimName"], claim["path"])
    hub = raw["huggingFace"]
    secret = hub.get("tokenSecretRef")
    return HubModel(hub["repo"], hub["revision"], (secret["name"], secret["key"]) if secret else None)


def _parallelism(raw: Mapping[str, Any]) -> Parallelism:
    return Parallelism(
        ulysses=raw["ulysses"],
        ring=raw["ring"],
        pipefusion=raw["pipefusion"],
        cfg=raw["cfg"],
        data=raw["data"],
        patch_mode=PatchMode(raw["patchMode"]),
        auto=raw["auto"],
        link_mebibytes_per_second=raw.get("linkMebibytesPerSecond"),
    )


def _compression(raw: Mapping[str, Any]) -> Compression:
    return Compression(
        mode=CompressionMode(raw["mode"]),
        rate=Rate(raw["rate"]["minMillibits"], raw["rate"]["maxMillibits"]),
        target_stall_percent=raw["targetStallPercent"],
        max_relative_error_milli=raw["maxRelativeErrorMilli"],
        warmup_steps=raw["warmupSteps"],
        base_memory_mebibytes=raw["baseMemoryMebibytes"],
        predictor_order=raw["predictorOrder"],
    )


def _generation(raw: Mapping[str, Any]) -> Generation:
    config_map = raw["promptsFrom"]["configMap"] if "promptsFrom" in raw else None
    return Generation(
        prompts=tuple(
            Prompt(entry["name"], entry["prompt"], entry["negativePrompt"], entry["seed"])
            for entry in raw.get("prompts", ())
        ),
        prompts_from=ConfigMapKey(config_map["name"], config_map["key"]) if config_map else None,
        steps=raw["steps"],
        guidance_scale_milli=raw["guidanceScaleMilli"],
        height=raw["height"],
        width=raw["width"],
        num_frames=raw.get("numFrames"),
        frames_per_second=raw.get("framesPerSecond", DEFAULT_FRAMES_PER_SECOND),
    )


def _output(raw: Mapping[str, Any] | None) -> OutputClaim | None:
    if raw is None:
        return None
    claim = raw["persistentVolumeClaim"]
    return OutputClaim(claim["claimName"], claim["path"])


def _run_policy(raw: Mapping[str, Any]) -> RunPolicy:
    return RunPolicy(
        suspend=raw["suspend"],
        active_deadline_seconds=raw.get("activeDeadlineSeconds"),
        ttl_seconds_after_finished=raw.get("ttlSecondsAfterFinished"),
        max_restarts=raw["maxRestarts"],
    )
