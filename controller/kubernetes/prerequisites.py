"""What an attempt needs that the job's owner has to provide: claims, prompts, a queue. Each is looked up before it
starts, so that a job says what it waits for instead of leaving pods that wait without a word.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from thinwire.controller.kubernetes.api import Api, ApiError
from thinwire.controller.kubernetes.resources import CLAIMS, CONFIG_MAPS, QUEUE_LABEL, Raw, Resource
from thinwire.controller.kubernetes.template_rules import template_refusals
from thinwire.controller.launcher import LaunchError, NotYetError
from thinwire.controller.manifest.job import ClaimModel, ConfigMapKey, DiffusionJob, Prompt
from thinwire.controller.manifest.load import parse_list
from thinwire.controller.manifest.prompts import prompts_of
from thinwire.controller.manifest.refusal import ManifestError, Refusal

_QUEUE_GROUP = "kueue.x-k8s.io"
_FORBIDDEN = 403


async def provided(api: Api, job: DiffusionJob) -> DiffusionJob:
    """The job with its prompts in it, if everything is there.

    Raises:
        LaunchError: no pod can do what the job says.
        NotYetError: something is missing that may come.
        ApiError: the API server does not answer.
    """
    refused = template_refusals(job.pod_template)
    if refused:
        raise LaunchError("; ".join(map(str, refused)), "InvalidPodTemplate")
    if job.output is None:
        expected, remedy = (
            "a persistentVolumeClaim",
            "add one in a new job: what a pod writes elsewhere is gone with it",
        )
        raise LaunchError(str(Refusal("spec.output", expected, "none", remedy)), "OutputMissing")
    for field, claim in _claims(job):
        if await api.find(CLAIMS, job.namespace, claim) is None:
            raise _missing(field, f"PersistentVolumeClaim {claim}", job.namespace, "ClaimMissing")
    if queue := job.labels.get(QUEUE_LABEL):
        await _require_queue(api, job.namespace, queue)
    if job.generation.prompts_from is None:
        return job
    prompts = await _prompts(api, job.namespace, job.generation.prompts_from)
    return replace(job, generation=replace(job.generation, prompts=prompts))


def _claims(job: DiffusionJob) -> Iterator[tuple[str, str]]:
    if job.output is not None:
        yield "spec.output.persistentVolumeClaim", job.output.claim_name
    if isinstance(job.model.source, ClaimModel):
        yield "spec.model.source.persistentVolumeClaim", job.model.source.claim_name


def _missing(field: str, what: str, namespace: str, reason: str) -> NotYetError:
    sentence = Refusal(field, f"{what} in namespace {namespace}", "none", "create it: the job begins by itself then")
    return NotYetError(reason, str(sentence))


async def _require_queue(api: Api, namespace: str, queue: str) -> None:
    field = f"metadata.labels[{QUEUE_LABEL}]"
    version = await api.preferred_version(_QUEUE_GROUP)
    if version is None:
        remedy = "install Kueue, or remove the label in a new job"
        raise NotYetError("QueueMissing", str(Refusal(field, "a cluster with Kueue", "one without", remedy)))
    try:
        there = await api.find(Resource(_QUEUE_GROUP, version, "localqueues", "LocalQueue"), namespace, queue)
    except ApiError as error:
        if error.status == _FORBIDDEN:
            # A cluster may keep its queues from us; then Kueue alone knows.
            return
        raise
    if there is None:
        raise _missing(field, f"LocalQueue {queue}", namespace, "QueueMissing")


async def _prompts(api: Api, namespace: str, wanted: ConfigMapKey) -> tuple[Prompt, ...]:
    field = "spec.generation.promptsFrom.configMap"
    config_map: Raw | None = await api.find(CONFIG_MAPS, namespace, wanted.name)
    if config_map is None:
        raise _missing(field, f"ConfigMap {wanted.name}", namespace, "PromptsMissing")
    text = (config_map.get("data") or {}).get(wanted.key)
    if text is None:
        keys = ", ".join(sorted(config_map.get("data") or ())[:10]) or "no key at all"
        sentence = Refusal(field, f"key {wanted.key} in ConfigMap {wanted.name}", keys, "add it, or name one of them")
        raise NotYetError("PromptsKeyMissing", str(sentence))
    try:
        return prompts_of(parse_list(text))
    except ManifestError as error:
        said = "; ".join(str(refusal) for refusal in error.refusals[:3])
        raise NotYetError("PromptsInvalid", f"{field}, ConfigMap {wanted.name}, key {wanted.key}: {said}") from error
