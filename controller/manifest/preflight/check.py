"""Everything that can be known to be wrong before a single rank starts."""

from __future__ import annotations

from pathlib import Path

from thinwire.controller.manifest.job import ClaimModel, DiffusionJob, HubModel
from thinwire.controller.manifest.preflight.geometry import geometry_refusals, release_refusals
from thinwire.controller.manifest.preflight.location import field_of, located
from thinwire.controller.manifest.preflight.model_folder import ModelFacts, read_model
from thinwire.controller.manifest.preflight.output_folder import needed_bytes, output_refusals
from thinwire.controller.manifest.refusal import ManifestError, Refusal


def preflight(job: DiffusionJob) -> list[Refusal]:
    """Check the job's model, where this machine has it, and the degrees and sizes that it is to run with."""
    facts, refusals = _model(job)
    return refusals + release_refusals(job, facts) + (geometry_refusals(job, facts) if facts else [])


def local_preflight(job: DiffusionJob, output_dir: Path, gpus_here: int) -> list[Refusal]:
    """Check further what this machine itself must have to run the job, with `gpus_here` accelerators in it."""
    refusals = _only_in_a_cluster(job)
    if job.accelerator != "cpu" and gpus_here < job.gpus:
        remedy = "set accelerator to cpu" if gpus_here == 0 else f"set gpus to {gpus_here} or accelerator to cpu"
        expected = f"{job.gpus} of {job.accelerator} on this machine"
        refusals.append(Refusal("spec.gpus", expected, str(gpus_here), remedy))
    return refusals + output_refusals(output_dir, needed_bytes(job.generation))


def warnings(job: DiffusionJob) -> list[str]:
    """Say what is no mistake and yet seldom meant; for a job that preflight accepts."""
    facts, _ = _model(job)
    if facts is None:
        return []
    most = facts.prompt_tokens - 2  # a start and an end come with the words, each of which is a token at least
    lengths = {prompt.name: len(prompt.prompt.split()) for prompt in job.generation.prompts}
    return [
        f'prompt "{name}" has {words} words, and the model reads {most} at most: the rest is lost'
        for name, words in lengths.items()
        if words > most
    ]


def gpus_of_this_machine() -> int:
    """Count the NVIDIA devices that the kernel shows."""
    return sum(path.name.removeprefix("nvidia").isdecimal() for path in Path("/dev").glob("nvidia*"))


def _model(job: DiffusionJob) -> tuple[ModelFacts | None, list[Refusal]]:
    try:
        return read_model(job.model), []
    except ManifestError as error:
        return None, list(error.refusals)


def _only_in_a_cluster(job: DiffusionJob) -> list[Refusal]:
    refusals = []
    source = job.model.source
    if isinstance(source, ClaimModel):
        got = f"the volume claim {source.claim_name}"
        refusals.append(Refusal(field_of(source), "a model on this machine", got, "use path or bundled, or a cluster"))
    if isinstance(source, HubModel) and located(source) is None:
        got = f"{source.repo}, which is not in the hub's cache"
        remedy = f"run `hf download {source.repo} --revision {source.revision}` first, or use path"
        refusals.append(Refusal(field_of(source), "a model on this machine", got, remedy))
    if job.generation.prompts_from is not None:
        got = f"the ConfigMap {job.generation.prompts_from.name}"
        expected = "prompts in the manifest on this machine"
        refusals.append(Refusal("spec.generation.promptsFrom", expected, got, "list them under prompts"))
    return refusals
