"""`parallelism: {auto: true}`: the degrees that finish the job first, by the cost model, of those that can run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from thinwire.controller.manifest.job import DiffusionJob, Parallelism, PatchMode
from thinwire.controller.manifest.preflight.families import family_named
from thinwire.controller.manifest.preflight.geometry import geometry_refusals, release_refusals
from thinwire.controller.manifest.preflight.location import field_of
from thinwire.controller.manifest.preflight.model_folder import ModelFacts, read_model
from thinwire.controller.manifest.preflight.strategies import Standing, Strategy, verdict
from thinwire.controller.manifest.refusal import ManifestError, Refusal
from thinwire.controller.planner.cost import Prediction, predict
from thinwire.controller.planner.job_plan import attention_of, plan_with
from thinwire.controller.planner.layout import LinkClass
from thinwire.controller.planner.machine import Link, Machine, Source, assumed

_MEBIBYTE = 1 << 20
_WORTH_IT = 1.03
"""A prediction this close to the best is as good: then the less lossy exchange, and the simpler split, is taken."""


def settled(job: DiffusionJob, machine: Machine | None = None) -> DiffusionJob:
    """Return the job with its degrees chosen where it leaves them to thinwire; any other job as it is.

    One whose model and prompts are both for the cluster to know is returned unsettled.

    Raises:
        ManifestError: no degrees make its pictures on so many ranks, or the model would have to be seen to know them.
    """
    if not job.parallelism.auto:
        return job
    facts = read_model(job.model)
    if facts is None:
        # How many prompts a ConfigMap holds is known in the cluster alone, which settles the job then.
        return settled_unseen(job) if job.generation.prompts else job
    predictions = ranked(job, facts, machine)
    if not predictions:
        tried = [replace(job, parallelism=degrees) for degrees in candidates(job)]
        why = geometry_refusals(tried[0], facts) if tried else []
        raise ManifestError(why or [_nothing_fits(job)])
    return replace(job, parallelism=replace(predictions[0].parallelism, auto=False))


def settled_unseen(job: DiffusionJob) -> DiffusionJob:
    """Return the job with degrees that need no look at its model: a prompt for every rank, or a guidance branch.

    A model's heads and rows decide how its sequence can be shared, and only its family whether guidance can.

    Raises:
        ManifestError: there are too few prompts for that.
    """
    if not job.parallelism.auto:
        return job
    family = family_named(job.model.pipeline or "")
    shares_guidance = family is not None and verdict(family, Strategy.CFG).standing is Standing.SUPPORTED
    fitting = [
        degrees for degrees in candidates(job) if degrees.sequence == 1 and (degrees.cfg == 1 or shares_guidance)
    ]
    if not fitting:
        prompts = max(1, len(job.generation.prompts))
        expected = f"a prompt for each of {job.gpus} ranks, or a model that can be read before they start"
        got = f"{prompts} prompt{'' if prompts == 1 else 's'} and {field_of(job.model.source).rpartition('.')[2]}"
        named = "" if family is not None else ", name spec.model.pipeline"
        remedy = f"set ulysses and ring instead{named}, or have {job.gpus} prompts or more"
        raise ManifestError([Refusal("spec.parallelism.auto", expected, got, remedy)])
    return replace(job, parallelism=max(fitting, key=lambda degrees: degrees.data))


def ranked(job: DiffusionJob, facts: ModelFacts, machine: Machine | None = None) -> list[Prediction]:
    """Return a prediction for all degrees that can run this job on its ranks, the best first."""
    machine = machine or machine_of(job, facts)
    predictions = []
    for degrees in candidates(job):
        tried = replace(job, parallelism=degrees)
        if not release_refusals(tried, facts) and not geometry_refusals(tried, facts):
            predictions.append(predict(tried, plan_with(tried, facts), machine))
    best = min((prediction.job_seconds for prediction in predictions), default=0.0)
    return sorted(predictions, key=lambda one: _order(one, best))


def candidates(job: DiffusionJob) -> Iterator[Parallelism]:
    """Yield all degrees of the exact strategies whose product is the job's ranks; stale ones are never chosen.

    Replicas are no more than the prompts; those of a ConfigMap are not known, and count as one.
    """
    guided = job.generation.guidance_scale_milli > 1000
    prompts = max(1, len(job.generation.prompts))
    for data in (divisor for divisor in _divisors(job.gpus) if divisor <= prompts):
        for cfg in (1, 2) if guided else (1,):
            rest, remainder = divmod(job.gpus, data * cfg)
            if not remainder:
                for ulysses in _divisors(rest):
                    yield Parallelism(ulysses, rest // ulysses, 1, cfg, data, PatchMode.NONE)


def machine_of(job: DiffusionJob, facts: ModelFacts) -> Machine:
    """Return what is assumed of the machine, with the bandwidth that the manifest gives."""
    machine = assumed(attention_of(job, facts), on_cpu=job.accelerator == "cpu")
    given = job.parallelism.link_mebibytes_per_second
    if given is None:
        return machine
    before = machine.links[LinkClass.INTER_NODE]
    link = Link(given * _MEBIBYTE, before.fixed_seconds, Source.GIVEN)
    return replace(machine, links={**machine.links, LinkClass.INTER_NODE: link})


def _order(prediction: Prediction, best_seconds: float) -> tuple[float, float, float, int]:
    """Sort by time, in bands of `_WORTH_IT`; within the best band by loss, then by how many dimensions are split."""
    close = prediction.job_seconds <= best_seconds * _WORTH_IT
    degrees = prediction.parallelism
    split = sum(degree > 1 for degree in (degrees.ulysses, degrees.ring, degrees.cfg, degrees.data))
    band = 0.0 if close else prediction.job_seconds
    return band, prediction.distortion if close else 0.0, prediction.job_seconds, split


def _nothing_fits(job: DiffusionJob) -> Refusal:
    return Refusal("spec.gpus", "a number of ranks that share this model's pictures", str(job.gpus), "set it to 1")


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]
