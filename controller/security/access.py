"""Who may do what: a pod reports for its own job, a person reads what the cluster's own rules let him read.

Both answers are the API server's. They are kept for a short while: a token that was revoked, or a right that was taken
away, works for that long. Tokens are known here by their SHA-256 alone.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import grpc

from thinwire.controller.job_record import JobKey
from thinwire.controller.security.cluster import JOB_GROUP, JOB_RESOURCE, Caller, ClusterError, JobPod, job_pod
from thinwire.controller.security.expiring import ExpiringCache
from thinwire.controller.security.refusals import RefusedError
from thinwire.controller.token_bucket import TokenBuckets

TELEMETRY_AUDIENCE = "thinwire-telemetry"
KNOWN_SECONDS = 60.0
"""How long an answer holds."""
UNKNOWN_SECONDS = 10.0
"""How long a refusal holds: shorter, so that a right that was just given works soon."""

_MOST_KEPT = 8192
_LONGEST_TOKEN = 32_768
_UNREVIEWED_BURST, _UNREVIEWED_PER_SECOND = 1024, 50.0

_LOG_IN = "show `authorization: Bearer TOKEN`; `kubectl create token` makes one, `thinwire status` does it by itself"
_POD_TOKEN = f"a pod of the job has it in a projected volume of audience {TELEMETRY_AUDIENCE}"

Answer = TypeVar("Answer")
CachedPod = Callable[[str, str], Mapping[str, Any] | None]


class Reviews(Protocol):
    """What is asked of the API server; each raises ClusterError."""

    async def review(self, token: str, audience: str) -> Caller | None:
        """Whose token it is; None for a token that is not valid for `audience` (empty: the API server's own)."""

    async def allows(self, caller: Caller, verb: str, namespace: str, name: str) -> bool:
        """Whether `caller` may do `verb` on DiffusionJobs."""

    async def pod(self, namespace: str, name: str) -> JobPod | None:
        """One pod; None if there is none of that name."""


@dataclass(frozen=True, slots=True)
class Reporter:
    """A pod that may speak for one attempt of one job."""

    key: JobKey
    attempt: int
    pod_name: str


class Access:
    """Decides, by the API server's word. `cached_pod` may answer for a raw pod without asking; it may be behind."""

    def __init__(
        self,
        reviews: Reviews,
        cached_pod: CachedPod | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reviews = reviews
        self._cached_pod = cached_pod
        self._callers: ExpiringCache[tuple[bytes, str], Caller | None] = ExpiringCache(_MOST_KEPT, clock)
        self._rights: ExpiringCache[tuple[Caller, str, str, str], bool] = ExpiringCache(_MOST_KEPT, clock)
        self._unreviewed: TokenBuckets[str] = TokenBuckets(_UNREVIEWED_BURST, _UNREVIEWED_PER_SECOND, clock=clock)

    async def reporter(self, token: str, peer: str) -> Reporter:
        """The job that the pod with this token belongs to; raises RefusedError."""
        caller = await self._caller(token, TELEMETRY_AUDIENCE, peer, _POD_TOKEN)
        if not (caller.namespace and caller.pod_name and caller.pod_uid):
            raise RefusedError(
                grpc.StatusCode.PERMISSION_DENIED,
                "token of no pod",
                f"expected a token that is bound to a pod, got one of {caller.name}; {_POD_TOKEN}",
            )
        pod = await self._pod(caller)
        if pod is None or not pod.job_name:
            what = "is gone" if pod is None else "is part of no DiffusionJob"
            raise RefusedError(
                grpc.StatusCode.PERMISSION_DENIED,
                "pod of no job",
                f"expected a pod of a DiffusionJob, but {caller.namespace}/{caller.pod_name} {what}",
            )
        return Reporter(JobKey(caller.namespace, pod.job_name), pod.attempt, caller.pod_name)

    async def may_read(self, token: str, peer: str, verb: str, namespace: str, name: str) -> None:
        """Return if the bearer may do `verb` on a job (all of a namespace, or of all, without names), else raise."""
        caller = await self._caller(token, "", peer, _LOG_IN)
        question = (caller, verb, namespace, name)
        allowed = await _answered(
            self._rights.get(
                question,
                lambda: self._reviews.allows(*question),
                lambda yes: KNOWN_SECONDS if yes else UNKNOWN_SECONDS,
            )
        )
        if not allowed:
            where = f"in namespace {namespace}" if namespace else "in all namespaces; name one"
            what = f"{JOB_RESOURCE}.{JOB_GROUP}" + (f" {name}" if name else "")
            raise RefusedError(
                grpc.StatusCode.PERMISSION_DENIED,
                "right missing",
                f"{caller.name} may not {verb} {what} {where}; ask for a Role with verb {verb} on {JOB_RESOURCE}",
            )

    async def _caller(self, token: str, audience: str, peer: str, remedy: str) -> Caller:
        if not token:
            raise RefusedError(grpc.StatusCode.UNAUTHENTICATED, "no token", f"expected a bearer token; {remedy}")
        if len(token) > _LONGEST_TOKEN:
            said = f"expected a token of at most {_LONGEST_TOKEN} characters, got {len(token)}; {remedy}"
            raise RefusedError(grpc.StatusCode.UNAUTHENTICATED, "token too long", said)
        key = (hashlib.sha256(token.encode()).digest(), audience)
        # A token that was good a minute ago is asked about at once, whatever else comes from its host.
        strange = not self._callers.fresh(key) and self._callers.last(key) is None
        if strange and not self._unreviewed.take(peer):
            raise RefusedError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "too many unknown tokens",
                f"{peer} shows more unknown tokens than {_UNREVIEWED_PER_SECOND:g} a second; try again later",
            )
        caller = await _answered(
            self._callers.get(
                key,
                lambda: self._reviews.review(token, audience),
                lambda found: KNOWN_SECONDS if found else UNKNOWN_SECONDS,
            )
        )
        if caller is None:
            raise RefusedError(
                grpc.StatusCode.UNAUTHENTICATED,
                "token not valid",
                "the token is unknown to the cluster, has expired or is meant for another audience "
                f"(expected {audience or 'the API server itself'}); {remedy}",
            )
        return caller

    async def _pod(self, caller: Caller) -> JobPod | None:
        raw = self._cached_pod(caller.namespace, caller.pod_name) if self._cached_pod else None
        if raw is not None and raw["metadata"]["uid"] == caller.pod_uid:
            return job_pod(raw)
        pod = await _answered(self._reviews.pod(caller.namespace, caller.pod_name))
        return pod if pod is not None and pod.uid == caller.pod_uid else None


async def _answered(question: Awaitable[Answer]) -> Answer:
    try:
        return await question
    except ClusterError as error:
        message = f"nobody can be let in for now: {error}; try again"
        raise RefusedError(grpc.StatusCode.UNAVAILABLE, "cluster away", message) from None
