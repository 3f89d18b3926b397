"""StatusService: what people and programs ask about jobs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import grpc

from thinwire.controller.ingest import links
from thinwire.controller.job_record import JobKey, JobRecord
from thinwire.controller.job_store import JobStore
from thinwire.controller.plan import State
from thinwire.proto.thinwire.v1alpha1 import status_pb2 as pb
from thinwire.proto.thinwire.v1alpha1 import status_pb2_grpc

SHORTEST_PAUSE_SECONDS = 0.1

_STATES = {
    State.PENDING: pb.JOB_STATE_PENDING,
    State.STARTING: pb.JOB_STATE_STARTING,
    State.RUNNING: pb.JOB_STATE_RUNNING,
    State.SUSPENDED: pb.JOB_STATE_SUSPENDED,
    State.RESTARTING: pb.JOB_STATE_RESTARTING,
    State.SUCCEEDED: pb.JOB_STATE_SUCCEEDED,
    State.FAILED: pb.JOB_STATE_FAILED,
}


def job_status(record: JobRecord, now_seconds: float) -> pb.JobStatus:
    """A snapshot as the protocol says it."""
    heard, step = record.heard, record.heard.step
    status = pb.JobStatus(
        namespace=record.key.namespace,
        name=record.key.name,
        state=_STATES[record.state],
        message=record.message,
        prompts_done=heard.prompts_done,
        prompts_total=record.prompts_total,
        steps=record.steps_per_prompt,
        links=links(heard.tuner, step),
        epoch=heard.tuner.epoch if heard.tuner else 0,
        last_reason=heard.last_reason,
        attempt=record.attempt,
        restarts=record.restarts,
        link_is_emulated=record.link_is_emulated,
        retunes=[
            pb.RetuneEvent(
                job_step=retune.job_step,
                prompt_name=retune.prompt_name,
                step=retune.step,
                epoch=retune.epoch,
                link_class=retune.link_class,
                from_millibits=retune.from_millibits,
                to_millibits=retune.to_millibits,
                reason=retune.reason,
            )
            for retune in record.retunes
        ],
        start_time=record.start_seconds,
        completion_time=record.completion_seconds,
        silence_seconds=-1.0 if heard.at_seconds is None else max(0.0, now_seconds - heard.at_seconds),
        bytes_sent=record.bytes_before[0],
        bytes_uncompressed=record.bytes_before[1],
        reports_refused=dict(record.refused),
        plan=record.plan,
    )
    if step is not None:
        status.prompt_name = step.prompt_name
        status.step = step.step + 1
        status.job_step = step.job_step
        status.max_relative_error = step.max_relative_error
        status.step_seconds = step.step_seconds
        status.compute_seconds = step.compute_seconds
        status.bytes_sent += step.bytes_sent
        status.bytes_uncompressed += step.bytes_uncompressed
        status.frames_refused = step.frames_refused
        status.key_frames_forced = step.key_frames_forced
        status.base_mismatches = step.base_mismatches
        status.base_memory_bytes = step.base_memory_bytes
    return status


class StatusService(status_pb2_grpc.StatusServiceServicer):
    """Answers from snapshots; nothing asked here can change a job or hold it up.

    `tells_names`: whether the answer for an unknown job names those there are, which only some callers may know.
    """

    def __init__(self, store: JobStore, clock: Callable[[], float] = time.time, *, tells_names: bool = True) -> None:
        self._store = store
        self._clock = clock
        self._tells_names = tells_names

    async def GetJob(  # noqa: N802 - the proto's name
        self, request: pb.GetJobRequest, context: grpc.aio.ServicerContext[pb.GetJobRequest, pb.GetJobResponse]
    ) -> pb.GetJobResponse:
        """One job as it is now."""
        record = await self._known(JobKey(request.namespace, request.name), context)
        return pb.GetJobResponse(job=job_status(record, self._clock()))

    async def ListJobs(  # noqa: N802 - the proto's name
        self, request: pb.ListJobsRequest, context: grpc.aio.ServicerContext[pb.ListJobsRequest, pb.ListJobsResponse]
    ) -> pb.ListJobsResponse:
        """All jobs of a namespace, by name."""
        del context
        now = self._clock()
        return pb.ListJobsResponse(jobs=[job_status(record, now) for record in self._store.all(request.namespace)])

    async def WatchJob(  # noqa: N802 - the proto's name
        self, request: pb.WatchJobRequest, context: grpc.aio.ServicerContext[pb.WatchJobRequest, pb.WatchJobResponse]
    ) -> AsyncIterator[pb.WatchJobResponse]:
        """The job as it is, then after changes, until it has ended."""
        key = JobKey(request.namespace, request.name)
        await self._known(key, context)
        async for record in self._store.watch(key):
            yield pb.WatchJobResponse(job=job_status(record, self._clock()))
            if record.state.ended:
                return
            await asyncio.sleep(SHORTEST_PAUSE_SECONDS)

    async def GetHistory(  # noqa: N802 - the proto's name
        self,
        request: pb.GetHistoryRequest,
        context: grpc.aio.ServicerContext[pb.GetHistoryRequest, pb.GetHistoryResponse],
    ) -> pb.GetHistoryResponse:
        """One sample per step, oldest first, as far back as memory goes."""
        record = await self._known(JobKey(request.namespace, request.name), context)
        return pb.GetHistoryResponse(
            samples=[sample for sample in record.samples if sample.job_step >= request.from_job_step]
        )

    async def _known(self, key: JobKey, context: grpc.aio.ServicerContext) -> JobRecord:  # type: ignore[type-arg]
        record = self._store.get(key)
        if record is None:
            hint = f"`thinwire status --namespace {key.namespace}` lists those there are"
            if self._tells_names:
                hint = f"jobs known: {', '.join(str(other.key) for other in self._store.all()[:10]) or 'none'}"
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no job {key} here; {hint}")
            raise AssertionError
        return record
