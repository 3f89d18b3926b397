"""The jobs that a controller knows, and what it remembers of each beside its snapshot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from thinwire.controller.ingest import allow
from thinwire.controller.job_record import HISTORY_SAMPLES, Allowed, JobKey
from thinwire.controller.job_store import JobStore
from thinwire.controller.kubernetes.events import Moment, Note, limits_changed
from thinwire.controller.kubernetes.resources import Raw, uid_of
from thinwire.controller.kubernetes.status import record_of
from thinwire.controller.manifest.job import DiffusionJob

_SAMPLES_OF_ALL_JOBS = 65_536
"""About 60 MiB: what every job's history keeps in memory becomes less as there are more jobs."""
_FEWEST_SAMPLES = 64


@dataclass(slots=True)
class Known:
    """What is remembered of one job; anew for every object, whatever its name. `authority` is what its gang trusts."""

    uid: str
    generation: int
    job: DiffusionJob
    told: Moment
    status_at: float = float("-inf")
    authority: str = ""


class KnownJobs:
    """Keeps store and memory in step with the objects that passes bring."""

    def __init__(self, store: JobStore, tell: Callable[[Raw, Note], None]) -> None:
        self._store = store
        self._tell = tell
        self._known: dict[JobKey, Known] = {}

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: JobKey) -> Known | None:
        """What is remembered of a job that was met before."""
        return self._known.get(key)

    def forget(self, key: JobKey) -> None:
        """A job is gone."""
        self._store.remove(key)
        self._known.pop(key, None)

    def meet(self, key: JobKey, raw: Raw) -> Known:
        """Know an object as it is now: a new one from its status on, an edited one with its new limits."""
        known = self._known.get(key)
        uid, generation = uid_of(raw), int(raw["metadata"]["generation"])
        if known is None or known.uid != uid:
            job = DiffusionJob.from_raw(raw)
            record = record_of(raw, job)
            known = Known(uid, generation, job, Moment(record))
            self._store.remove(key)
            self._store.put(allow(record, _allowed(job)))
        elif known.generation != generation:
            known.generation, known.job = generation, DiffusionJob.from_raw(raw)
            self._allow(key, raw, _allowed(known.job))
        self._known[key] = known
        kept = _samples_kept(len(self._known))
        self._store.update(key, lambda now: now if now.samples_kept == kept else replace(now, samples_kept=kept))
        return known

    def _allow(self, key: JobKey, raw: Raw, allowed: Allowed) -> None:
        """Hand an edit of the rate's limits to the law."""
        record = self._store.get(key)
        assert record is not None
        if record.allowed == allowed:
            return
        self._store.put(allow(record, allowed))
        if not record.state.ended:
            self._tell(raw, limits_changed(allowed))


def _samples_kept(jobs: int) -> int:
    """A power of two, so that one job more or less changes nothing."""
    share = max(_SAMPLES_OF_ALL_JOBS // max(jobs, 1), _FEWEST_SAMPLES)
    return min(HISTORY_SAMPLES, 1 << (share.bit_length() - 1))


def _allowed(job: DiffusionJob) -> Allowed:
    compression = job.compression
    rate = compression.rate
    return Allowed(rate.min_millibits, rate.max_millibits, compression.target_stall_percent)
