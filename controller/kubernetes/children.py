"""The objects of one attempt, derived from its job: headless Service, ConfigMap with the RunSpec, Indexed Job."""

from __future__ import annotations

from pathlib import Path

from google.protobuf import json_format

from thinwire.controller.kubernetes import pod
from thinwire.controller.kubernetes.resources import (
    APPLICATION_LABELS,
    ATTEMPT_LABEL,
    CONFIG_MAPS,
    DIFFUSION_JOBS,
    JOB_NAME_LABEL,
    JOBS,
    QUEUE_LABEL,
    SERVICES,
    Raw,
    Resource,
)
from thinwire.controller.kubernetes.settings import PodSettings
from thinwire.controller.manifest.job import BundledModel, ClaimModel, DiffusionJob, FolderModel
from thinwire.controller.manifest.run_spec import run_spec
from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import Model, TelemetrySecurity

_QUEUE_PREFIX = "kueue.x-k8s.io/"


def child_name(job_name: str, attempt: int) -> str:
    """Name of an attempt's Service, ConfigMap and Job."""
    return f"{job_name}-{attempt}"


def children(job: DiffusionJob, uid: str, attempt: int, settings: PodSettings) -> tuple[tuple[Resource, Raw], ...]:
    """What to apply, in this order: the Job last, so that its pods find the rest. `uid` is the DiffusionJob's."""
    return (
        (CONFIG_MAPS, _config_map(job, uid, attempt, settings)),
        (SERVICES, _service(job, uid, attempt)),
        (JOBS, _indexed_job(job, uid, attempt, settings)),
    )


def _object(resource: Resource, job: DiffusionJob, uid: str, attempt: int) -> Raw:
    owner = {
        "apiVersion": DIFFUSION_JOBS.api_version,
        "kind": DIFFUSION_JOBS.kind,
        "name": job.name,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {
            "name": child_name(job.name, attempt),
            "namespace": job.namespace,
            "labels": {**APPLICATION_LABELS, JOB_NAME_LABEL: job.name, ATTEMPT_LABEL: str(attempt)},
            "ownerReferences": [owner],
        },
    }


def _config_map(job: DiffusionJob, uid: str, attempt: int, settings: PodSettings) -> Raw:
    config_map = _object(CONFIG_MAPS, job, uid, attempt)
    config_map["data"] = {pod.RUN_SPEC_KEY: _run_spec(job, attempt, settings)}
    if settings.authority:
        config_map["data"][pod.AUTHORITY_KEY] = settings.authority
    return config_map


def _run_spec(job: DiffusionJob, attempt: int, settings: PodSettings) -> str:
    assert job.output is not None
    security = None
    if settings.authority:
        security = TelemetrySecurity(
            ca_file=f"{pod.CONFIG_MOUNT}/{pod.AUTHORITY_KEY}",
            token_file=f"{pod.IDENTITY_MOUNT}/{pod.TOKEN_FILE}",
            server_name=settings.telemetry_address.rpartition(":")[0],
        )
    spec = run_spec(
        job,
        attempt=attempt,
        output_dir=Path(pod.OUTPUT_MOUNT, job.output.path or job.name),
        telemetry_address=settings.telemetry_address,
        telemetry_security=security,
        model_path=Path(pod.MODEL_MOUNT),
    )
    _place_model(spec.model, job)
    return json_format.MessageToJson(spec, preserving_proto_field_name=True)


def _place_model(model: Model, job: DiffusionJob) -> None:
    """Say where the ranks find it: only their image knows where its bundled models are."""
    match job.model.source:
        case BundledModel(name):
            model.path, model.bundled = "", name
        case FolderModel(path):
            model.path = path
        case ClaimModel(_, path):
            model.path = str(Path(pod.MODEL_MOUNT, path))
        case hub:
            model.path = ""
            model.hub.repo, model.hub.revision = hub.repo, hub.revision


def _service(job: DiffusionJob, uid: str, attempt: int) -> Raw:
    service = _object(SERVICES, job, uid, attempt)
    service["spec"] = {
        "clusterIP": "None",
        # Ranks look for each other before any of them is ready.
        "publishNotReadyAddresses": True,
        "selector": {JOB_NAME_LABEL: job.name, ATTEMPT_LABEL: str(attempt)},
        "ports": [{"name": "rendezvous", "port": pod.MASTER_PORT}],
    }
    return service


def _indexed_job(job: DiffusionJob, uid: str, attempt: int, settings: PodSettings) -> Raw:
    pods = job.gpus // job.gpus_per_pod
    indexed = _object(JOBS, job, uid, attempt)
    indexed["metadata"]["labels"] |= {
        name: value for name, value in job.labels.items() if name.startswith(_QUEUE_PREFIX)
    }
    indexed["spec"] = {
        "completionMode": "Indexed",
        "completions": pods,
        "parallelism": pods,
        # One pod alone is never started again: the controller starts the whole gang as the next attempt.
        "backoffLimit": 0,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": pod.CONTAINER, "operator": "NotIn", "values": [0]},
                },
            ]
        },
        # A queue admits the gang by taking this away.
        "suspend": QUEUE_LABEL in job.labels,
        "template": pod.pod_template(job, child_name(job.name, attempt), attempt, settings),
    }
    return indexed
