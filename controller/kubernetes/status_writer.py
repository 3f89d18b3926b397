"""Writes the status of jobs: at once what a user waits for, seldom what are only new figures of a job that goes on."""

from __future__ import annotations

import time
from collections.abc import Callable

from thinwire.controller.job_record import JobRecord
from thinwire.controller.kubernetes.api import Api
from thinwire.controller.kubernetes.cache import Cache
from thinwire.controller.kubernetes.conditions import Gang
from thinwire.controller.kubernetes.known import Known
from thinwire.controller.kubernetes.metrics import Metrics
from thinwire.controller.kubernetes.resources import DIFFUSION_JOBS, Raw
from thinwire.controller.kubernetes.status import is_urgent, merge_patch, status_of

STATUS_SECONDS = 5.0
"""Least time between two writes of a job's status that only bring new figures."""
STATUS_WRITES_PER_SECOND = 20.0
"""Such writes of all jobs together; with more jobs each is written less often."""


class StatusWriter:
    """One patch per job and change, by merge patch on the status subresource."""

    def __init__(self, api: Api, jobs: Cache, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._api = api
        self._jobs = jobs
        self._metrics = metrics
        self._clock = clock

    async def write(self, raw: Raw, known: Known, record: JobRecord, gang: Gang, least_seconds: float) -> float | None:
        """Bring the status of `raw` up to date; the seconds until it is due, if that is later. Raises ApiError."""
        before = raw.get("status") or {}
        after = status_of(record, raw, gang, self._clock())
        patch = merge_patch(before, after)
        if not patch:
            return None
        wait = known.status_at + least_seconds - time.monotonic()
        if wait > 0 and not is_urgent(before, after):
            return wait
        key = record.key
        written = await self._api.patch(DIFFUSION_JOBS, key.namespace, key.name, {"status": patch}, "status")
        known.status_at = time.monotonic()
        self._metrics.status_writes.inc()
        self._jobs.put(written)
        return None


def seconds_between_writes(jobs: int) -> float:
    """How often the figures of each of so many jobs are written."""
    return max(STATUS_SECONDS, jobs / STATUS_WRITES_PER_SECOND)
