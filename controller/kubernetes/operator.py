"""The operator: caches in, a queue of keys between, one pass over one job at a time out.

Whatever changes (an object, a report of a rank, the time) puts a job's key in line; a worker takes it, looks at the
caches, has the pure `plan` decide, carries that out and shows it in the status. A pass that fails comes back later; no
error of one job touches another. Everything runs in one event loop, next to the gRPC server that shares the store.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

import structlog

from thinwire.controller.job_record import JobKey, JobRecord
from thinwire.controller.job_store import JobStore
from thinwire.controller.kubernetes.api import Api, ApiError
from thinwire.controller.kubernetes.cache import Cache, Reflector
from thinwire.controller.kubernetes.children import child_name
from thinwire.controller.kubernetes.conditions import Gang
from thinwire.controller.kubernetes.diagnosis import Cause, ended_by, waits_for
from thinwire.controller.kubernetes.events import Moment, Recorder, controller_fault, notes_between
from thinwire.controller.kubernetes.expiry import expires_in_seconds
from thinwire.controller.kubernetes.known import Known, KnownJobs
from thinwire.controller.kubernetes.launcher import ClusterLauncher, Gangs
from thinwire.controller.kubernetes.metrics import Metrics
from thinwire.controller.kubernetes.refused_pods import RefusedPods
from thinwire.controller.kubernetes.resources import (
    ATTEMPT_LABEL,
    DIFFUSION_JOBS,
    JOB_NAME_LABEL,
    JOBS,
    PODS,
    Raw,
    condition_of,
    label_of,
    name_of,
    namespace_of,
)
from thinwire.controller.kubernetes.settings import PodSettings
from thinwire.controller.kubernetes.slim import slim_job, slim_pod
from thinwire.controller.kubernetes.status_writer import StatusWriter, seconds_between_writes
from thinwire.controller.kubernetes.work_queue import WorkQueue
from thinwire.controller.manifest.job import DiffusionJob
from thinwire.controller.plan import Job, StartAttempt, State
from thinwire.controller.reconcile import Pass, Reconciler

_FIRST_LOOK_SECONDS, _LAST_LOOK_SECONDS = 2.0, 15.0
"""A gang without pods is looked into again after as long as its job is old, within these bounds."""

_WORKERS = 8
_RESYNC_SECONDS = 300.0

_log = structlog.get_logger(__name__)


class Operator:
    """Looks after every DiffusionJob of some namespaces, or of all."""

    def __init__(
        self,
        api: Api,
        namespaces: tuple[str, ...],
        pod_settings: Callable[[], PodSettings],
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._api = api
        self._clock = clock
        self._pod_settings = pod_settings
        self._metrics = metrics
        self._recorder = Recorder(api, clock)
        self._refused_pods = RefusedPods(api)
        self.synced = asyncio.Event()
        self._queue: WorkQueue[JobKey] = WorkQueue()
        self.store = JobStore(self._heard)
        self._known = KnownJobs(self.store, self._recorder.tell)
        self._jobs = Cache(DIFFUSION_JOBS, self._job_changed)
        self._statuses = StatusWriter(api, self._jobs, metrics, clock)
        children = Cache(JOBS, self._child_changed, slim_job, JOB_NAME_LABEL)
        pods = Cache(PODS, self._child_changed, slim_pod, JOB_NAME_LABEL)
        self.gangs = Gangs(children, pods)
        self._reflectors = [
            Reflector(api, cache, namespace, "" if cache is self._jobs else JOB_NAME_LABEL)
            for namespace in namespaces or ("",)
            for cache in (self._jobs, children, pods)
        ]

    def relists(self) -> dict[str, int]:
        """How often each kind was listed as a whole."""
        counts: dict[str, int] = {}
        for reflector in self._reflectors:
            counts[reflector.plural] = counts.get(reflector.plural, 0) + reflector.relists
        return counts

    async def run(self) -> None:
        """Look after jobs until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for reflector in self._reflectors:
                tasks.create_task(reflector.run())
            for reflector in self._reflectors:
                await reflector.synced.wait()
            self._meet()
            _log.info("caches_synced", jobs=len(self._known))
            self.synced.set()
            tasks.create_task(self._resync())
            tasks.create_task(self._recorder.run())
            for _ in range(_WORKERS):
                tasks.create_task(self._work())

    def _meet(self) -> None:
        """Know every job before the first rank reports. One that cannot be read is its own pass's to tell of."""
        for raw in self._jobs.all():
            key = JobKey(namespace_of(raw), name_of(raw))
            try:
                self._known.meet(key, raw)
            except Exception:
                _log.exception("job_unreadable", job=str(key))

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(_RESYNC_SECONDS)
            for raw in self._jobs.all():
                self._job_changed(raw)

    async def _work(self) -> None:
        while True:
            key = await self._queue.get()
            self._metrics.waited.observe(self._queue.waited_seconds(key))
            self._metrics.queue_depth.set(len(self._queue))
            try:
                with self._metrics.reconciled.time():
                    await self._reconcile(key)
                self._queue.forget(key)
            except ApiError as error:
                self._metrics.failures.inc()
                pause = self._queue.add_failed(key)
                _log.warning("reconcile_failed", job=str(key), status=error.status, reason=str(error), again_in=pause)
                if error.refused:
                    await self._admit(key, error)
            except Exception as error:
                # A fault of ours in one job must not end the others' controller; it is logged whole and tried again.
                self._metrics.failures.inc()
                pause = self._queue.add_failed(key)
                _log.exception("reconcile_broke", job=str(key), again_in=pause)
                raw = self._jobs.get(key.namespace, key.name)
                if raw is not None:
                    self._recorder.tell(raw, controller_fault(error))
            finally:
                self._queue.done(key)

    async def _reconcile(self, key: JobKey) -> None:
        raw = self._jobs.get(key.namespace, key.name)
        if raw is None or "deletionTimestamp" in raw["metadata"]:
            self._known.forget(key)
            return
        known = self._known.meet(key, raw)
        record = self.store.get(key)
        assert record is not None
        launcher = ClusterLauncher(
            self._api,
            known.job,
            known.uid,
            record.attempt,
            self.gangs,
            self._pod_settings,
            lambda plan: self.store.update(key, lambda now: replace(now, plan=plan)),
        )
        reconciler = Reconciler(key, _planned(known.job, record, self._clock()), launcher, self.store, self._clock)
        done = await reconciler.once()
        self._count(done)
        if not done.after.start_seconds and done.after.attempt:
            self.store.update(key, lambda now: replace(now, start_seconds=self._clock()))
        if done.decided.again_in_seconds is not None:
            self._queue.add_after(key, done.decided.again_in_seconds)
        gang = await self._refused(done, self._gang(key, done))
        self._tell(raw, known, gang.cause)
        await self._show(key, raw, known, gang)
        if done.idle:
            await self._bury(key, known)
        else:
            await self._introduce(launcher, known, done.after.attempt)

    async def _refused(self, done: Pass, gang: Gang) -> Gang:
        """Find out why a gang that should have pods has none."""
        record = done.after
        if record.state is not State.STARTING or gang.cause is not None or not gang.pods or gang.made:
            return gang
        age = self._clock() - record.start_seconds if record.start_seconds else 0.0
        self._queue.add_after(record.key, min(max(age, _FIRST_LOOK_SECONDS), _LAST_LOOK_SECONDS))
        child = self.gangs.jobs.get(record.key.namespace, child_name(record.key.name, record.attempt))
        cause = await self._refused_pods.cause(child) if child is not None else None
        if cause is None:
            return gang
        self.store.update(record.key, lambda now: replace(now, message=cause.message))
        return replace(gang, cause=cause)

    async def _introduce(self, launcher: ClusterLauncher, known: Known, attempt: int) -> None:
        """See that a gang that runs trusts the authority of now: another may have taken its place since it began."""
        authority = self._pod_settings().authority
        if authority != known.authority:
            await launcher.renew_authority(attempt)
            known.authority = authority

    async def _bury(self, key: JobKey, known: Known) -> None:
        """Delete a job whose time after its end has passed; what it owns goes with it."""
        record, ttl = self.store.get(key), known.job.run_policy.ttl_seconds_after_finished
        assert record is not None
        left = expires_in_seconds(record, ttl, self._clock())
        if left is None:
            return
        if left > 0:
            self._queue.add_after(key, left)
            return
        _log.info("job_expired", job=str(key), ttl_seconds=ttl)
        await self._api.delete(DIFFUSION_JOBS, key.namespace, key.name, uid=known.uid, propagation="Background")

    async def _admit(self, key: JobKey, error: ApiError) -> None:
        """Have the job say that a step of it is refused: it would wait without a word otherwise."""
        raw, known = self._jobs.get(key.namespace, key.name), self._known.get(key)
        if raw is None or known is None:
            return
        cause = Cause("Forbidden", f"the API server refuses a step of this job: {error}; it is tried again")
        self.store.update(key, lambda now: replace(now, message=cause.message))
        self._tell(raw, known, cause)
        try:
            await self._show(key, raw, known, Gang(cause=cause))
        except ApiError as second:
            _log.warning("status_not_shown", job=str(key), status=second.status, reason=str(second))

    def _count(self, done: Pass) -> None:
        self._metrics.attempts.inc(sum(isinstance(action, StartAttempt) for action in done.decided.actions))
        self._metrics.restarts.inc(max(done.after.restarts - done.before.restarts, 0))

    def _tell(self, raw: Raw, known: Known, cause: Cause | None) -> None:
        record = self.store.get(JobKey(namespace_of(raw), name_of(raw)))
        assert record is not None
        now = Moment(record, cause)
        for note in notes_between(known.told, now):
            self._recorder.tell(raw, note)
        known.told = now

    async def _show(self, key: JobKey, raw: Raw, known: Known, gang: Gang) -> None:
        record = self.store.get(key)
        assert record is not None
        due = await self._statuses.write(raw, known, record, gang, self._status_seconds())
        if due is not None:
            self._queue.add_after(key, due)

    def _status_seconds(self) -> float:
        return seconds_between_writes(len(self._known))

    def _gang(self, key: JobKey, done: Pass) -> Gang:
        """The present attempt's pods; why it waits or how it ended is the plan's word or theirs."""
        cause = Cause(done.decided.reason, done.decided.message) if done.decided.reason else None
        for child in self.gangs.jobs.labelled(key.namespace, key.name):
            if label_of(child, ATTEMPT_LABEL) != str(done.after.attempt):
                continue
            pods = self.gangs.pods_of(child)
            if cause is None:
                failed = condition_of(child, "Failed") or condition_of(child, "FailureTarget")
                cause = ended_by(child, pods) if failed else waits_for(child, pods)
            ready = sum(condition_of(one, "Ready") is not None for one in pods)
            return Gang(ready, child["spec"]["completions"], cause, made=len(pods))
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
        self._metrics.heard(before, after)
        if _weighs(before) != _weighs(after):
            self._queue.add(after.key)
        else:
            self._queue.add_after(after.key, self._status_seconds())


def _weighs(record: JobRecord) -> tuple[object, ...]:
    heard = record.heard
    return heard.attempt, heard.steps_reported > 0, heard.finished, heard.prompts_done, len(record.retunes)


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
