"""The operator: caches in, a queue of keys between, one pass over one job at a time out.

Whatever changes (an object, a report of a rank, the time) puts a job's key in line; a worker takes it, looks at the
caches, has the pure `plan` decide, carries that out and shows it in the status. A pass that fails comes back later; no
error of one job touches another. Everything runs in one event loop, next to the gRPC server that shares the store.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from thinwire.controller.job_record import JobKey, JobRecord
from thinwire.controller.job_store import JobStore
from thinwire.controller.kubernetes.api import Api, ApiError
from thinwire.controller.kubernetes.cache import Cache, Reflector
from thinwire.controller.kubernetes.conditions import Gang
from thinwire.controller.kubernetes.diagnosis import Cause, ended_by, waits_for
from thinwire.controller.kubernetes.launcher import ClusterLauncher, Gangs
from thinwire.controller.kubernetes.resources import (
    DIFFUSION_JOBS,
    JOB_NAME_LABEL,
    JOBS,
    PODS,
    Raw,
    condition_of,
    label_of,
    name_of,
    namespace_of,
    uid_of,
)
from thinwire.controller.kubernetes.settings import PodSettings
from thinwire.controller.kubernetes.slim import slim_job, slim_pod
from thinwire.controller.kubernetes.status import is_urgent, merge_patch, record_of, status_of
from thinwire.controller.kubernetes.work_queue import WorkQueue
from thinwire.controller.manifest.job import DiffusionJob
from thinwire.controller.plan import Job, Plan, State
from thinwire.controller.reconcile import Pass, Reconciler

STATUS_SECONDS = 5.0
"""Least time between two writes of a job's status that only bring new figures."""
STATUS_WRITES_PER_SECOND = 20.0
"""Such writes of all jobs together; with more jobs each is written less often."""

_WORKERS = 8
_RESYNC_SECONDS = 300.0

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Known:
    """What is remembered of a job beside its snapshot; anew for every object, whatever its name."""

    uid: str
    generation: int
    job: DiffusionJob
    status_at: float = float("-inf")


class Operator:
    """Looks after every DiffusionJob of some namespaces, or of all."""

    def __init__(
        self,
        api: Api,
        namespaces: tuple[str, ...],
        pod_settings: Callable[[], PodSettings],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._api = api
        self._clock = clock
        self._pod_settings = pod_settings
        self._queue: WorkQueue[JobKey] = WorkQueue()
        self._known: dict[JobKey, _Known] = {}
        self.store = JobStore(self._heard)
        self._jobs = Cache(DIFFUSION_JOBS, self._job_changed)
        children = Cache(JOBS, self._child_changed, slim_job, JOB_NAME_LABEL)
        pods = Cache(PODS, self._child_changed, slim_pod, JOB_NAME_LABEL)
        self._gangs = Gangs(children, pods)
        self._reflectors = [
            Reflector(api, cache, namespace, "" if cache is self._jobs else JOB_NAME_LABEL)
            for namespace in namespaces or ("",)
            for cache in (self._jobs, children, pods)
        ]

    @property
    def ready(self) -> bool:
        """Whether every cache has been filled once."""
        return all(reflector.synced.is_set() for reflector in self._reflectors)

    async def run(self) -> None:
        """Look after jobs until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for reflector in self._reflectors:
                tasks.create_task(reflector.run())
            for reflector in self._reflectors:
                await reflector.synced.wait()
            _log.info("caches_synced", jobs=len(list(self._jobs.all())))
            tasks.create_task(self._resync())
            for _ in range(_WORKERS):
                tasks.create_task(self._work())

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(_RESYNC_SECONDS)
            for raw in self._jobs.all():
                self._job_changed(raw)

    async def _work(self) -> None:
        while True:
            key = await self._queue.get()
            try:
                await self._reconcile(key)
                self._queue.forget(key)
            except ApiError as error:
                pause = self._queue.add_failed(key)
                _log.warning("reconcile_failed", job=str(key), status=error.status, reason=str(error), again_in=pause)
            except Exception:
                # A fault of ours in one job must not end the others' controller; it is logged whole and tried again.
                pause = self._queue.add_failed(key)
                _log.exception("reconcile_broke", job=str(key), again_in=pause)
            finally:
                self._queue.done(key)

    async def _reconcile(self, key: JobKey) -> None:
        raw = self._jobs.get(key.namespace, key.name)
        if raw is None or "deletionTimestamp" in raw["metadata"]:
            self.store.remove(key)
            self._known.pop(key, None)
            return
        known = self._look_up(key, raw)
        record = self.store.get(key)
        assert record is not None
        launcher = ClusterLauncher(self._api, known.job, known.uid, record.attempt, self._gangs, self._pod_settings)
        reconciler = Reconciler(key, _planned(known.job, record, self._clock()), launcher, self.store, self._clock)
        done = await reconciler.once()
        if not done.after.start_seconds and done.after.attempt:
            self.store.update(key, lambda now: replace(now, start_seconds=self._clock()))
        if done.decided.again_in_seconds is not None:
            self._queue.add_after(key, done.decided.again_in_seconds)
        await self._show(key, raw, known, done)

    def _look_up(self, key: JobKey, raw: Raw) -> _Known:
        known = self._known.get(key)
        uid, generation = uid_of(raw), int(raw["metadata"]["generation"])
        if known is None or known.uid != uid:
            known = _Known(uid, generation, DiffusionJob.from_raw(raw))
            self.store.remove(key)
            self.store.put(record_of(raw, known.job))
        elif known.generation != generation:
            known.generation, known.job = generation, DiffusionJob.from_raw(raw)
        self._known[key] = known
        return known

    async def _show(self, key: JobKey, raw: Raw, known: _Known, done: Pass) -> None:
        record = self.store.get(key)
        assert record is not None
        before = raw.get("status") or {}
        after = status_of(record, raw, self._gang(known, record, done.decided), self._clock())
        patch = merge_patch(before, after)
        if not patch:
            return
        wait = known.status_at + self._status_seconds() - time.monotonic()
        if wait > 0 and not is_urgent(before, after):
            self._queue.add_after(key, wait)
            return
        written = await self._api.patch(DIFFUSION_JOBS, key.namespace, key.name, {"status": patch}, "status")
        known.status_at = time.monotonic()
        self._jobs.put(written)

    def _status_seconds(self) -> float:
        return max(STATUS_SECONDS, len(self._known) / STATUS_WRITES_PER_SECOND)

    def _gang(self, known: _Known, record: JobRecord, decided: Plan) -> Gang:
        """The present attempt's pods; why it waits or how it ended is the plan's word or theirs."""
        namespace, name = record.key.namespace, record.key.name
        cause = Cause(decided.reason, decided.message) if decided.reason else None
        for child in self._gangs.jobs.labelled(namespace, name):
            if label_of(child, "thinwire.dev/attempt") != str(record.attempt):
                continue
            pods = [one for one in self._gangs.pods.labelled(namespace, name) if _owned_by(one, child)]
            if cause is None:
                failed = condition_of(child, "Failed") or condition_of(child, "FailureTarget")
                cause = ended_by(child, pods) if failed else waits_for(pods)
            return Gang(
                sum(condition_of(one, "Ready") is not None for one in pods), child["spec"]["completions"], cause
            )
        return Gang(cause=cause)

    def _job_changed(self, raw: Raw) -> None:
        self._queue.add(JobKey(namespace_of(raw), name_of(raw)))

    def _child_changed(self, raw: Raw) -> None:
        key = JobKey(namespace_of(raw), label_of(raw, JOB_NAME_LABEL))
        if self._jobs.get(key.namespace, key.name) is not None:
            self._queue.add(key)

    def _heard(self, before: JobRecord | None, after: JobRecord) -> None:
        """A report came in: what changes the plan is acted on at once, figures are shown when they are due."""
        if before is None or before.heard is after.heard:
            return
        if _weighs(before) != _weighs(after):
            self._queue.add(after.key)
        else:
            self._queue.add_after(after.key, self._status_seconds())


def _weighs(record: JobRecord) -> tuple[object, ...]:
    heard = record.heard
    return heard.attempt, heard.steps_reported > 0, heard.finished, heard.prompts_done, len(record.retunes)


def _owned_by(pod: Raw, job: Raw) -> bool:
    return any(owner["uid"] == uid_of(job) for owner in pod["metadata"].get("ownerReferences") or ())


def _planned(job: DiffusionJob, record: JobRecord, now_seconds: float) -> Job:
    policy = job.run_policy
    return Job(
        created_seconds=record.start_seconds or now_seconds,
        suspend=policy.suspend,
        active_deadline_seconds=policy.active_deadline_seconds,
        max_restarts=policy.max_restarts,
        state=record.state if record.state.ended else State.PENDING,
        message=record.message,
    )
