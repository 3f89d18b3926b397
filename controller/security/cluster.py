"""What security asks of the API server, over the official client's asyncio half.

Rights it needs: create tokenreviews and subjectaccessreviews; get pods; in the controller's own namespace create, get
and update on one Secret and one ConfigMap by name. It never lists or watches Secrets.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from kubernetes.aio import client
from kubernetes.aio.client.exceptions import ApiException

JOB_GROUP, JOB_RESOURCE = "thinwire.dev", "diffusionjobs"
JOB_NAME_LABEL = "thinwire.dev/job-name"
ATTEMPT_LABEL = "thinwire.dev/attempt"

_REQUEST_SECONDS = 10.0
_NOT_FOUND, _CONFLICT = 404, 409
_POD_NAME = "authentication.kubernetes.io/pod-name"
_POD_UID = "authentication.kubernetes.io/pod-uid"
_SERVICE_ACCOUNT = "system:serviceaccount:"


class ClusterError(Exception):
    """The API server refused or did not answer; the message has its own words and never a token."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a token stands for, as the API server says."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def namespace(self) -> str:
        """The namespace of a ServiceAccount; empty for everybody else."""
        if not self.name.startswith(_SERVICE_ACCOUNT):
            return ""
        return self.name.removeprefix(_SERVICE_ACCOUNT).partition(":")[0]

    @property
    def pod_name(self) -> str:
        """The pod that the token is bound to; empty for a token that is bound to none."""
        return self._extra(_POD_NAME)

    @property
    def pod_uid(self) -> str:
        """The uid of that pod."""
        return self._extra(_POD_UID)

    def _extra(self, key: str) -> str:
        values = dict(self.extra).get(key, ())
        return values[0] if len(values) == 1 else ""


@dataclass(frozen=True, slots=True)
class JobPod:
    """A pod as far as it matters here: what it is part of. Empty fields for a pod of no job."""

    uid: str
    job_name: str = ""
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Kept:
    """The content of a Secret, and the version that an update of it must name."""

    version: str
    files: Mapping[str, bytes]


def job_pod(raw: Mapping[str, Any]) -> JobPod:
    """What a raw pod is part of. Only a pod that a batch Job controls is part of a job: labels alone prove nothing."""
    metadata = raw["metadata"]
    owners = metadata.get("ownerReferences") or ()
    of_a_job = any(owner.get("controller") and owner.get("kind") == "Job" for owner in owners)
    labels = metadata.get("labels") or {}
    attempt = str(labels.get(ATTEMPT_LABEL, ""))
    if not of_a_job or not attempt.isdecimal():
        return JobPod(str(metadata["uid"]))
    return JobPod(str(metadata["uid"]), str(labels.get(JOB_NAME_LABEL, "")), int(attempt))


class Cluster:
    """Plain questions with a deadline; raises ClusterError. Belongs to the event loop that made the client."""

    def __init__(self, api_client: client.ApiClient) -> None:
        self._client = api_client
        self._authentication = client.AuthenticationV1Api(api_client)
        self._authorization = client.AuthorizationV1Api(api_client)
        self._core = client.CoreV1Api(api_client)

    async def review(self, token: str, audience: str) -> Caller | None:
        """Whose token it is for `audience` (empty: the API server's own); None for a token that is not valid."""
        spec = client.V1TokenReviewSpec(token=token, audiences=[audience] if audience else None)
        answer = await _asked(self._authentication.create_token_review(client.V1TokenReview(spec=spec), **_DEADLINE))
        status = answer.status
        if not status.authenticated or (audience and audience not in (status.audiences or ())):
            return None
        user = status.user
        extra = tuple(sorted((key, tuple(values)) for key, values in (user.extra or {}).items()))
        return Caller(user.username or "", user.uid or "", tuple(user.groups or ()), extra)

    async def allows(self, caller: Caller, verb: str, namespace: str, name: str) -> bool:
        """Whether the cluster lets `caller` do `verb` on a DiffusionJob (all of a namespace, or all, without names)."""
        attributes = client.V1ResourceAttributes(
            group=JOB_GROUP, resource=JOB_RESOURCE, verb=verb, namespace=namespace or None, name=name or None
        )
        spec = client.V1SubjectAccessReviewSpec(
            user=caller.name,
            uid=caller.uid or None,
            groups=list(caller.groups) or None,
            extra={key: list(values) for key, values in caller.extra} or None,
            resource_attributes=attributes,
        )
        review = client.V1SubjectAccessReview(spec=spec)
        answer = await _asked(self._authorization.create_subject_access_review(review, **_DEADLINE))
        return bool(answer.status.allowed) and not answer.status.denied

    async def pod(self, namespace: str, name: str) -> JobPod | None:
        """A pod, or None if there is none of that name."""
        try:
            found = await _asked(self._core.read_namespaced_pod(name, namespace, **_DEADLINE), _NOT_FOUND)
        except _ExpectedError:
            return None
        raw: dict[str, Any] = self._client.sanitize_for_serialization(found)
        return job_pod(raw)

    async def secret(self, namespace: str, name: str) -> Kept | None:
        """The content of one Secret, or None if there is none of that name."""
        try:
            found = await _asked(self._core.read_namespaced_secret(name, namespace, **_DEADLINE), _NOT_FOUND)
        except _ExpectedError:
            return None
        files = {key: base64.b64decode(value) for key, value in (found.data or {}).items()}
        return Kept(found.metadata.resource_version, files)

    async def keep_secret(self, namespace: str, name: str, files: Mapping[str, bytes], version: str) -> bool:
        """Create a Secret, or with a `version` replace it; False if somebody else was faster."""
        body = client.V1Secret(
            metadata=_metadata(namespace, name, version),
            type="Opaque",
            data={key: base64.b64encode(value).decode() for key, value in files.items()},
        )
        if version:
            call = self._core.replace_namespaced_secret(name, namespace, body, **_DEADLINE)
        else:
            call = self._core.create_namespaced_secret(namespace, body, **_DEADLINE)
        return await _kept(call)

    async def publish(self, namespace: str, name: str, data: Mapping[str, str]) -> None:
        """Make one ConfigMap hold `data` and nothing else."""
        try:
            found = await _asked(self._core.read_namespaced_config_map(name, namespace, **_DEADLINE), _NOT_FOUND)
        except _ExpectedError:
            body = client.V1ConfigMap(metadata=_metadata(namespace, name, ""), data=dict(data))
            await _kept(self._core.create_namespaced_config_map(namespace, body, **_DEADLINE))
            return
        if found.data != dict(data):
            found.data, found.metadata.managed_fields = dict(data), None
            await _kept(self._core.replace_namespaced_config_map(name, namespace, found, **_DEADLINE))


_DEADLINE = {"_request_timeout": _REQUEST_SECONDS}


class _ExpectedError(Exception):
    """An HTTP status that the question reckons with."""


async def _asked(call: Any, expected: int = 0) -> Any:
    try:
        return await call
    except ApiException as error:
        if error.status == expected:
            raise _ExpectedError from None
        raise ClusterError(f"the API server refused ({error.status} {error.reason}); see the controller's rights")  # noqa: B904
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        raise ClusterError(f"the API server does not answer: {type(error).__name__}") from None


async def _kept(call: Any) -> bool:
    try:
        await _asked(call, _CONFLICT)
    except _ExpectedError:
        return False
    return True


def _metadata(namespace: str, name: str, version: str) -> client.V1ObjectMeta:
    return client.V1ObjectMeta(
        name=name,
        namespace=namespace,
        resource_version=version or None,
        labels={"app.kubernetes.io/name": "thinwire", "app.kubernetes.io/managed-by": "thinwire-controller"},
    )
