"""Degrees and sizes that a model can be run with: what upstream would compute wrongly or die of is refused before."""

from __future__ import annotations

from thinwire.controller.manifest.job import DiffusionJob, Dtype, Parallelism, PatchMode
from thinwire.controller.manifest.preflight.families import Family, family_named
from thinwire.controller.manifest.preflight.model_folder import ModelFacts
from thinwire.controller.manifest.preflight.strategies import Standing, asked_for, verdict
from thinwire.controller.manifest.refusal import Refusal


def release_refusals(job: DiffusionJob, facts: ModelFacts | None) -> list[Refusal]:
    """Refuse strategies that this model's family does not run, and those that do not go together.

    Without facts the family is the one that the manifest names, if it names one.
    """
    family = facts.family if facts is not None else family_named(job.model.pipeline or "")
    refusals = [] if family is None else _family_refusals(job, facts, family)
    refusals.extend(_combination_refusals(job.parallelism))
    if job.accelerator == "cpu" and job.model.dtype is Dtype.FLOAT16:
        expected = "Auto, float32 or bfloat16 with accelerator cpu"
        refusals.append(Refusal("spec.model.dtype", expected, "float16", "set it to Auto"))
    return refusals


def _family_refusals(job: DiffusionJob, facts: ModelFacts | None, family: Family) -> list[Refusal]:
    remedy = _instead(job, facts)
    refusals = []
    for strategy, got in asked_for(job.parallelism).items():
        found = verdict(family, strategy)
        if found.standing is not Standing.SUPPORTED:
            usual = "None" if strategy.is_patch_mode else "1"
            expected = f"{usual} for {family.pipeline} ({found.reason})"
            instead = "remove the field" if strategy.is_patch_mode else remedy
            refusals.append(Refusal(strategy.field, expected, got, instead))
    return refusals


def _combination_refusals(parallelism: Parallelism) -> list[Refusal]:
    mode, field = parallelism.patch_mode, "spec.parallelism.patchMode"
    if mode is not PatchMode.NONE and parallelism.ring == 1:
        remedy = "set parallelism.ring to the number of patches or remove the field"
        return [Refusal(field, "None with ring 1: patches are the shards of a ring", str(mode), remedy)]
    if mode is PatchMode.DISTRIFUSION and parallelism.pipefusion > 1:
        expected = "None or Gather with pipefusion above 1, whose patches are stale already"
        return [Refusal(field, expected, str(mode), "remove the field or set pipefusion to 1")]
    return []


def geometry_refusals(job: DiffusionJob, facts: ModelFacts) -> list[Refusal]:
    """Refuse degrees and sizes that this model cannot be split or drawn with."""
    parallelism = job.parallelism
    refusals = []
    if facts.heads % parallelism.ulysses:
        expected = f"a divisor of the model's {facts.heads} attention heads"
        refusals.append(Refusal("spec.parallelism.ulysses", expected, str(parallelism.ulysses), _instead(job, facts)))
    if facts.family.text_must_divide and facts.text_tokens % parallelism.sequence:
        expected = f"ulysses * ring to divide the model's {facts.text_tokens} text tokens"
        remedy = f"{_instead(job, facts)}, or choose another max_sequence_length in {facts.folder}/thinwire.json"
        refusals.append(Refusal("spec.parallelism", expected, str(parallelism.sequence), remedy))
    tokens = tokens_of(job, facts)
    if not facts.family.shares_rows and tokens % parallelism.sequence:
        expected = f"ulysses * ring to divide the {tokens} tokens of this size and number of frames"
        refusals.append(Refusal("spec.parallelism", expected, str(parallelism.sequence), _instead(job, facts)))
    stages = parallelism.pipefusion
    if -(-facts.layers // stages) * (stages - 1) >= facts.layers > 0 and stages > 1:
        expected = f"stages that each get some of the model's {facts.layers} layers"
        refusals.append(Refusal("spec.parallelism.pipefusion", expected, str(stages), _instead(job, facts)))
    refusals.extend(_sides(job, facts))
    refusals.extend(_frames(job, facts))
    return refusals


def tokens_of(job: DiffusionJob, facts: ModelFacts) -> int:
    """Return the image tokens of one picture or video."""
    generation = job.generation
    rows, columns = generation.height // facts.token_pixels, generation.width // facts.token_pixels
    return facts.token_frames(generation.num_frames or 1) * rows * columns


def _frames(job: DiffusionJob, facts: ModelFacts) -> list[Refusal]:
    """Refuse frames of a model that makes pictures, and numbers of frames that a model does not make."""
    asked, family = job.generation.num_frames, facts.family
    field = "spec.generation.numFrames"
    step = family.latent_frames_step * facts.frames_per_latent
    if not family.makes_video:
        expected = f"no frames of a {family.pipeline}, which makes pictures"
        return [] if asked is None else [Refusal(field, expected, str(asked), "remove the field")]
    if asked is None:
        expected = f"a number of frames for a {family.pipeline}, which makes videos"
        return [Refusal(field, expected, "none", f"set it to {6 * step + 1}")]
    if (asked - 1) % step:
        lower = (asked - 1) // step * step + 1
        remedy = f"set it to {lower} or {lower + step}" if lower > 1 else f"set it to {step + 1}"
        return [Refusal(field, f"1 more than a multiple of {step}", str(asked), remedy)]
    return []


def _sides(job: DiffusionJob, facts: ModelFacts) -> list[Refusal]:
    """Refuse sides that are not whole tokens; the ranks of a sequence and the patches share rows of tokens evenly."""
    generation, parallelism = job.generation, job.parallelism
    shares = parallelism.sequence * parallelism.pipefusion if facts.family.shares_rows else 1
    shared_by = "ulysses * ring" + (" * pipefusion" if parallelism.pipefusion > 1 else "")
    refusals = []
    for name, pixels, parts in (("height", generation.height, shares), ("width", generation.width, 1)):
        step = facts.token_pixels * parts
        split = f" times {shared_by} ({parts})" if parts > 1 else ""
        if pixels % step:
            expected = f"a multiple of {step}: the model's {facts.token_pixels} pixels a token{split}"
            lower = pixels // step * step
            remedy = f"set it to {lower} or {lower + step}" if lower else f"set it to {step}"
            refusals.append(Refusal(f"spec.generation.{name}", expected, str(pixels), remedy))
        most = None if facts.max_tokens_side is None else facts.max_tokens_side * facts.token_pixels
        if most is not None and pixels > most:
            expected = f"at most {most}, the largest side that the model has positions for"
            refusals.append(Refusal(f"spec.generation.{name}", expected, str(pixels), f"set it to {most} or less"))
    return refusals


def _instead(job: DiffusionJob, facts: ModelFacts | None) -> str:
    """Name the nearest degrees that run on as many ranks, or else on fewer."""
    for gpus in range(job.gpus, 0, -1):
        found = _nearest(job, facts, gpus)
        if found is not None:
            ulysses, ring = found
            degrees = f"ulysses {ulysses} and ring {ring} and leave the other degrees at 1"
            return f"set {degrees}" if gpus == job.gpus else f"set gpus {gpus}, {degrees}"
    return "choose another size of picture"


def _nearest(job: DiffusionJob, facts: ModelFacts | None, gpus: int) -> tuple[int, int] | None:
    """Return (ulysses, ring) for `gpus` ranks, as near to the job's as the model allows."""
    wanted: Parallelism = job.parallelism
    pairs = [(ulysses, gpus // ulysses) for ulysses in range(1, gpus + 1) if gpus % ulysses == 0]
    if facts is not None:
        rows, remainder = divmod(job.generation.height, facts.token_pixels)
        pairs = [
            (ulysses, ring)
            for ulysses, ring in pairs
            if facts.heads % ulysses == 0
            and (remainder or rows % gpus == 0 or not facts.family.shares_rows)
            and (facts.family.shares_rows or tokens_of(job, facts) % gpus == 0)
            and not (facts.family.text_must_divide and facts.text_tokens % gpus)
        ]
    return min(pairs, key=lambda pair: (abs(pair[0] - wanted.ulysses), abs(pair[1] - wanted.ring)), default=None)
