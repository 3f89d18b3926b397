"""The pod of a gang: what torchrun needs, what Pod Security `restricted` asks, and the user's template over it."""

from __future__ import annotations

from thinwire.controller.kubernetes.merge import merged
from thinwire.controller.kubernetes.resources import APPLICATION_LABELS, ATTEMPT_LABEL, JOB_NAME_LABEL, Raw
from thinwire.controller.kubernetes.settings import PodSettings
from thinwire.controller.manifest.job import ClaimModel, DiffusionJob, HubModel

CONTAINER = "rank"
USER_ID = 65532
OUTPUT_MOUNT = "/output"
MODEL_MOUNT = "/model"
CONFIG_MOUNT = "/etc/thinwire"
IDENTITY_MOUNT = "/var/run/secrets/thinwire.dev"
RUN_SPEC_KEY = "run_spec.json"
AUTHORITY_KEY = "ca.crt"
TOKEN_FILE = "token"  # noqa: S105 - a file's name
TOKEN_AUDIENCE = "thinwire-telemetry"  # noqa: S105 - no secret
TERMINATION_MESSAGE = "/dev/termination-log"
STARTED_FILE = "/tmp/thinwire-started"  # noqa: S108 - inside the pod, its own
LONGEST_START_SECONDS = 3600
"""What a rank may take to download and load its model; one that hangs there is ended, and its gang started again."""
MASTER_PORT = 29500

_TOKEN_SECONDS = 3600
_GRACE_SECONDS = 10
_PROBE_SECONDS = 5
_COMPLETION_INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"


def pod_template(job: DiffusionJob, child: str, attempt: int, settings: PodSettings) -> Raw:
    """The template of a gang's Job. `child` names Job, Service and ConfigMap of the attempt."""
    labels = {**APPLICATION_LABELS, JOB_NAME_LABEL: job.name, ATTEMPT_LABEL: str(attempt)}
    base = {"metadata": {"labels": labels}, "spec": _spec(job, child, settings)}
    template: Raw = merged(base, job.pod_template)
    return template


def _spec(job: DiffusionJob, child: str, settings: PodSettings) -> Raw:
    return {
        "restartPolicy": "Never",
        "subdomain": child,
        "enableServiceLinks": False,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(job, child, settings)],
        "volumes": _volumes(job, child, settings),
    }


def _container(job: DiffusionJob, child: str, settings: PodSettings) -> Raw:
    mounts = [
        {"name": "thinwire-tmp", "mountPath": "/tmp"},  # noqa: S108 - inside the pod, its own
        {"name": "thinwire-shm", "mountPath": "/dev/shm"},  # noqa: S108 - inside the pod, its own
        {"name": "thinwire-config", "mountPath": CONFIG_MOUNT, "readOnly": True},
        {"name": "thinwire-output", "mountPath": OUTPUT_MOUNT},
    ]
    if settings.authority:
        mounts.append({"name": "thinwire-identity", "mountPath": IDENTITY_MOUNT, "readOnly": True})
    if isinstance(job.model.source, ClaimModel):
        mounts.append({"name": "thinwire-model", "mountPath": MODEL_MOUNT, "readOnly": True})
    container: Raw = {
        "name": CONTAINER,
        "image": settings.image,
        "command": ["torchrun", "--module", "thinwire.runtime"],
        "env": _environment(job, child),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        # A pod is ready when its ranks have met and have their model. Nothing is asked of it after that: a rank that
        # waits for a peer is in good health.
        "startupProbe": {
            "exec": {"command": ["test", "-e", STARTED_FILE]},
            "periodSeconds": _PROBE_SECONDS,
            "failureThreshold": LONGEST_START_SECONDS // _PROBE_SECONDS,
        },
        "terminationMessagePath": TERMINATION_MESSAGE,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }
    if job.accelerator != "cpu":
        container["resources"] = {"limits": {job.accelerator: str(job.gpus_per_pod)}}
    return container


def _environment(job: DiffusionJob, child: str) -> list[Raw]:
    values = {
        "PET_NNODES": str(job.gpus // job.gpus_per_pod),
        "PET_NPROC_PER_NODE": str(job.gpus_per_pod),
        "PET_MASTER_ADDR": f"{child}-0.{child}.{job.namespace}.svc",
        "PET_MASTER_PORT": str(MASTER_PORT),
        "PET_MAX_RESTARTS": "0",
        "THINWIRE_RUN_SPEC": f"{CONFIG_MOUNT}/{RUN_SPEC_KEY}",
        "THINWIRE_TERMINATION_MESSAGE": TERMINATION_MESSAGE,
        "THINWIRE_STARTED_FILE": STARTED_FILE,
        "PYTHONUNBUFFERED": "1",
        # Nothing but /tmp can be written to.
        "HOME": "/tmp",  # noqa: S108 - inside the pod, its own
    }
    variables: list[Raw] = [{"name": name, "value": value} for name, value in values.items()]
    variables.append({"name": "PET_NODE_RANK", "valueFrom": {"fieldRef": {"fieldPath": _COMPLETION_INDEX}}})
    source = job.model.source
    if isinstance(source, HubModel) and source.token_secret is not None:
        secret, key = source.token_secret
        variables.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}})
    return variables


def _volumes(job: DiffusionJob, child: str, settings: PodSettings) -> list[Raw]:
    assert job.output is not None
    volumes: list[Raw] = [
        {"name": "thinwire-tmp", "emptyDir": {}},
        {"name": "thinwire-shm", "emptyDir": {"medium": "Memory"}},
        {"name": "thinwire-config", "configMap": {"name": child}},
        {"name": "thinwire-output", "persistentVolumeClaim": {"claimName": job.output.claim_name}},
    ]
    if settings.authority:
        token = {"audience": TOKEN_AUDIENCE, "expirationSeconds": _TOKEN_SECONDS, "path": TOKEN_FILE}
        volumes.append({"name": "thinwire-identity", "projected": {"sources": [{"serviceAccountToken": token}]}})
    if isinstance(job.model.source, ClaimModel):
        claim = {"claimName": job.model.source.claim_name, "readOnly": True}
        volumes.append({"name": "thinwire-model", "persistentVolumeClaim": claim})
    return volumes
