"""Why a Job has no pods: what its controller was told when it tried to create them.

That is in events alone, which no API server keeps an index of: it reads all of a namespace's for every question. So
they are read once in a while for every job of the namespace, not once for each.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from thinwire.controller.kubernetes.api import Api
from thinwire.controller.kubernetes.diagnosis import Cause
from thinwire.controller.kubernetes.resources import CORE_EVENTS, Raw, name_of, namespace_of, uid_of

FRESH_SECONDS = 5.0
"""How long a namespace's events are not read again."""

_ABOUT = "involvedObject.kind=Job,reason=FailedCreate"
_REMEDY = "mend spec.podTemplate in a new job, or what refuses the pods"


@dataclass(frozen=True, slots=True)
class _Reading:
    """One namespace's events: when they were asked for, and what they say of each Job, by its uid."""

    asked_at: float
    said: asyncio.Task[dict[str, str]]


class RefusedPods:
    """Knows, as of the last seconds, which Jobs were refused their pods. Belongs to one event loop."""

    def __init__(self, api: Api, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._clock = clock
        self._readings: dict[str, _Reading] = {}

    async def cause(self, job: Raw) -> Cause | None:
        """Why this Job could not create a pod, if it was refused one; raises ApiError."""
        now, namespace = self._clock(), namespace_of(job)
        self._readings = {key: one for key, one in self._readings.items() if now - one.asked_at < FRESH_SECONDS}
        reading = self._readings.get(namespace)
        if reading is None:
            reading = self._readings[namespace] = _Reading(now, asyncio.create_task(self._read(namespace)))
        message = (await asyncio.shield(reading.said)).get(uid_of(job))
        if message is None:
            return None
        return Cause("PodsRefused", f"no pod of Job {name_of(job)} can be created: {message}; {_REMEDY}")

    async def _read(self, namespace: str) -> dict[str, str]:
        listed = await self._api.list(CORE_EVENTS, namespace, fieldSelector=_ABOUT)
        told = sorted(listed["items"], key=lambda one: str(one.get("lastTimestamp") or ""))
        return {one["involvedObject"]["uid"]: one["message"] for one in told}
