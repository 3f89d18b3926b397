"""The launcher of one job in a cluster: gangs are Indexed Jobs, found in the caches and started by server-side apply.

An attempt that was told to stop is deleted, so the number of the newest attempt is kept in the job's status: `newest`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from thinwire.controller.kubernetes.api import Api, ApiError
from thinwire.controller.kubernetes.attempts import STOP_ANNOTATION, attempt_of
from thinwire.controller.kubernetes.cache import Cache
from thinwire.controller.kubernetes.children import child_name, children
from thinwire.controller.kubernetes.pod import AUTHORITY_KEY
from thinwire.controller.kubernetes.prerequisites import provided
from thinwire.controller.kubernetes.resources import (
    ATTEMPT_LABEL,
    CONFIG_MAPS,
    JOB_NAME_LABEL,
    JOBS,
    SERVICES,
    Raw,
    Resource,
    controlled_by,
    label_of,
    name_of,
    namespace_of,
    uid_of,
)
from thinwire.controller.kubernetes.settings import PodSettings
from thinwire.controller.launcher import LaunchError
from thinwire.controller.manifest.job import BundledModel, DiffusionJob
from thinwire.controller.manifest.refusal import ManifestError
from thinwire.controller.plan import Attempt, StopReason
from thinwire.controller.planner import JobPlan, plan_job
from thinwire.controller.planner.announce import plan_message
from thinwire.controller.planner.auto import settled, settled_unseen
from thinwire.controller.planner.job_plan import plan_unseen
from thinwire.proto.thinwire.v1alpha1 import status_pb2 as pb

_STOPPED = -15

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Gangs:
    """The caches that gangs are found in."""

    jobs: Cache
    pods: Cache

    def pods_of(self, job: Raw) -> list[Raw]:
        """The pods of one attempt's Job."""
        known = self.pods.labelled(namespace_of(job), label_of(job, JOB_NAME_LABEL))
        return [pod for pod in known if controlled_by(pod, uid_of(job))]


@dataclass(frozen=True, slots=True)
class ClusterLauncher:
    """The Launcher of one DiffusionJob. `uid` is its own, `newest` the highest attempt there has been.

    `tell_plan` hears what an attempt is going to do before it starts.
    """

    api: Api
    job: DiffusionJob
    uid: str
    newest: int
    gangs: Gangs
    settings: Callable[[], PodSettings]
    tell_plan: Callable[[pb.JobPlan], object]

    async def attempts(self) -> tuple[Attempt, ...]:
        """Every attempt whose Job is there; and the newest, if its Job is gone, as one that was stopped."""
        found = [attempt_of(raw, self.gangs.pods_of(raw)) for raw in self._jobs()]
        if self.newest > max((attempt.number for attempt in found), default=0):
            found.append(Attempt(self.newest, _STOPPED, stop=StopReason.SUSPENDED))
        return tuple(found)

    async def start(self, number: int) -> None:
        """Apply the attempt's objects; raises LaunchError, or ApiError if it may go better the next time."""
        if await self._is_there(number):
            return
        job, planned = _planned(await provided(self.api, self.job))
        self.tell_plan(plan_message(job, planned))
        for resource, body in children(job, self.uid, number, self.settings()):
            await self._refuse_strangers(resource, name_of(body))
            try:
                applied = await self.api.apply(resource, body)
            except ApiError as error:
                if error.final:
                    said = f"the API server refuses {resource.kind} {name_of(body)}: {error}"
                    raise LaunchError(f"{said}; mend spec.podTemplate in a new job", "Refused") from error
                raise
            if resource is JOBS:
                self.gangs.jobs.put(applied)
        _log.info("attempt_started", job=f"{self.job.namespace}/{self.job.name}", attempt=number)
        if number > 1:
            await self._clear(number - 1)

    async def stop(self, number: int, reason: StopReason) -> None:
        """Note why, and delete the attempt's Job with its pods; it is there until they are gone."""
        name = child_name(self.job.name, number)
        raw = self.gangs.jobs.get(self.job.namespace, name)
        if raw is None or not controlled_by(raw, self.uid):
            return
        note = {"metadata": {"annotations": {STOP_ANNOTATION: str(reason)}}}
        await self.api.patch(JOBS, self.job.namespace, name, note)
        await self.api.delete(JOBS, self.job.namespace, name, uid=uid_of(raw), propagation="Foreground")

    def _jobs(self) -> list[Raw]:
        namespace, name = self.job.namespace, self.job.name
        found = [raw for raw in self.gangs.jobs.labelled(namespace, name) if controlled_by(raw, self.uid)]
        return [raw for raw in found if label_of(raw, ATTEMPT_LABEL).isdecimal()]

    async def _clear(self, number: int) -> None:
        """Delete what an attempt that has ended needs no more. Its Job stays, the record of how it ended."""
        name = child_name(self.job.name, number)
        for resource in (SERVICES, CONFIG_MAPS):
            there = await self.api.find(resource, self.job.namespace, name)
            if there is not None and controlled_by(there, self.uid):
                await self.api.delete(resource, self.job.namespace, name, uid=uid_of(there), propagation="Background")

    async def renew_authority(self, number: int) -> None:
        """Give an attempt's ranks the authority of now: they read it for every new stream. Raises ApiError."""
        authority, name = self.settings().authority, child_name(self.job.name, number)
        there = await self.api.find(CONFIG_MAPS, self.job.namespace, name)
        if there is None or not controlled_by(there, self.uid):
            return
        if there["data"].get(AUTHORITY_KEY, authority) != authority:
            await self.api.patch(CONFIG_MAPS, self.job.namespace, name, {"data": {AUTHORITY_KEY: authority}})
            _log.info("authority_renewed", job=f"{self.job.namespace}/{self.job.name}", attempt=number)

    async def _is_there(self, number: int) -> bool:
        """Ask the API server itself: a cache may be behind, and two gangs must never write into one folder.

        It is asked by name: a list of the namespace's Jobs would cost more with every job there is.
        """
        before = await self._find(number - 1) if number > 1 else None
        if before is not None and attempt_of(before, []).exit_code is None:
            raise ApiError(
                0, "CacheBehind", f"attempt {number - 1} is there, which the cache did not show; looking again"
            )
        return await self._find(number) is not None

    async def _find(self, number: int) -> Raw | None:
        """The Job of an attempt as the server has it now, if it is this job's own."""
        raw = await self.api.find(JOBS, self.job.namespace, child_name(self.job.name, number))
        if raw is None or not controlled_by(raw, self.uid):
            return None
        self.gangs.jobs.put(raw)
        return raw

    async def _refuse_strangers(self, resource: Resource, name: str) -> None:
        there = await self.api.find(resource, self.job.namespace, name)
        if there is not None and not controlled_by(there, self.uid):
            raise LaunchError(
                f"expected no {resource.kind} {name}, got one that is not this job's; delete it or rename the job",
                "NameTaken",
            )


def _planned(job: DiffusionJob) -> tuple[DiffusionJob, JobPlan]:
    """The job with its degrees, and what it will do; LaunchError if no rank could do it.

    Where degrees are left to thinwire they follow from spec and model alone, so every attempt has the same. Of models
    only the bundled ones are here as the ranks have them; a folder is one of their image's.
    """
    seen = isinstance(job.model.source, BundledModel)
    try:
        job = settled(job) if seen else settled_unseen(job)
    except ManifestError as error:
        raise LaunchError("; ".join(map(str, error.refusals)), "DegreesUnknown") from error
    planned = plan_job(job) if seen else plan_unseen(job)
    if planned.refusals:
        raise LaunchError("; ".join(map(str, planned.refusals)), "CannotRun")
    return job, planned
