"""TelemetryService: hears rank 0 of every job and answers with directives."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable

import grpc
import structlog

from thinwire.controller.ingest import StreamRefusedError, Taken, greet, take
from thinwire.controller.job_record import JobKey, JobRecord
from thinwire.controller.job_store import JobStore
from thinwire.proto.thinwire.v1alpha1 import telemetry_pb2_grpc
from thinwire.proto.thinwire.v1alpha1.telemetry_pb2 import ReportRequest, ReportResponse

_log = structlog.get_logger(__name__)

Context = grpc.aio.ServicerContext[ReportRequest, ReportResponse]


class TelemetryService(telemetry_pb2_grpc.TelemetryServiceServicer):
    """One stream per attempt. A newer stream of the same job silences the older one."""

    def __init__(self, store: JobStore, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._speaking: dict[JobKey, object] = {}

    async def Report(  # noqa: N802 - the proto's name; the stub describes the synchronous server
        self, request_iterator: AsyncIterator[ReportRequest], context: Context
    ) -> AsyncIterator[ReportResponse]:
        """Take in reports until RunFinished, the peer's end or a refusal."""
        me = object()
        key: JobKey | None = None
        try:
            async for request in request_iterator:
                if key is None:
                    key = await self._begin(request, context)
                    self._speaking[key] = me
                    continue
                if self._speaking.get(key) is not me:
                    await context.abort(grpc.StatusCode.ABORTED, f"{key}: a newer stream of this job has begun")
                taken = await self._take(key, request, context)
                for answer in taken.answers:
                    _log.info("directive", job=str(key), epoch=answer.directive.epoch, reason=answer.directive.reason)
                    yield answer
                if taken.ended:
                    return
        finally:
            if key is not None and self._speaking.get(key) is me:
                del self._speaking[key]

    async def _begin(self, request: ReportRequest, context: Context) -> JobKey:
        if not request.HasField("hello"):
            said = request.WhichOneof("body") or "nothing"
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"expected Hello first, got {said}")
        key = JobKey(request.hello.namespace, request.hello.job_name)
        record = self._store.get(key)
        if record is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no job {key} here; ask the controller that started it")
            raise AssertionError
        try:
            self._store.put(greet(record, request, self._clock()))
        except StreamRefusedError as error:
            self._store.put(record.refusing("stream refused"))
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        _log.info("hello", job=str(key), attempt=request.hello.attempt, prompts_done=request.hello.prompts_done)
        return key

    async def _take(self, key: JobKey, request: ReportRequest, context: Context) -> Taken:
        record = self._store.get(key)
        if record is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"job {key} was deleted")
            raise AssertionError
        try:
            taken = take(record, request, self._clock())
        except StreamRefusedError as error:
            self._store.put(record.refusing("stream refused"))
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        self._store.put(taken.record)
        _log_refusals(record, taken.record)
        return taken


def _log_refusals(before: JobRecord, after: JobRecord) -> None:
    for reason, count in after.refused.items():
        if count > before.refused.get(reason, 0):
            _log.warning("report_refused", job=str(after.key), reason=reason, count=count)
