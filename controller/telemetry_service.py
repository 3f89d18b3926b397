"""TelemetryService: hears rank 0 of every job and answers with directives.

A stream that floods is ended, and its next one too until the job's bucket has filled again: what it costs to say no is
all that a flood can cost. A rank says in its Hello what was lost with the stream.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import grpc
import structlog

from thinwire.controller.credible import StreamRefusedError
from thinwire.controller.ingest import Taken, greet, take
from thinwire.controller.job_record import JobKey, JobRecord
from thinwire.controller.job_store import JobStore
from thinwire.controller.token_bucket import TokenBuckets
from thinwire.proto.thinwire.v1alpha1 import telemetry_pb2_grpc
from thinwire.proto.thinwire.v1alpha1.telemetry_pb2 import ReportRequest, ReportResponse

HELLO_SECONDS = 30.0
"""A stream that says nothing is not kept open for longer."""
REPORTS_BURST, REPORTS_PER_SECOND = 4096, 200.0
"""What one job may report: a queue of 512 reports at once after a controller was away, and then five times as many
steps a second as the fastest jobs make."""

_log = structlog.get_logger(__name__)

Context = grpc.aio.ServicerContext[ReportRequest, ReportResponse]


class TelemetryService(telemetry_pb2_grpc.TelemetryServiceServicer):
    """One stream per attempt. A newer stream of the same job silences the older one."""

    def __init__(self, store: JobStore, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._speaking: dict[JobKey, object] = {}
        self._buckets: TokenBuckets[JobKey] = TokenBuckets(REPORTS_BURST, REPORTS_PER_SECOND)

    async def Report(  # noqa: N802 - the proto's name; the stub describes the synchronous server
        self, request_iterator: AsyncIterator[ReportRequest], context: Context
    ) -> AsyncIterator[ReportResponse]:
        """Take in reports until RunFinished, the peer's end or a refusal."""
        me = object()
        key: JobKey | None = None
        try:
            first = await self._first(request_iterator, context)
            if first is None:
                return
            key = await self._begin(first, context)
            self._speaking[key] = me
            async for request in request_iterator:
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

    async def _first(self, requests: AsyncIterator[ReportRequest], context: Context) -> ReportRequest | None:
        try:
            return await asyncio.wait_for(anext(requests, None), HELLO_SECONDS)
        except TimeoutError:
            said = f"expected a Hello within {HELLO_SECONDS:.0f} s, got nothing"
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, said)
            raise AssertionError from None

    async def _begin(self, request: ReportRequest, context: Context) -> JobKey:
        if not request.HasField("hello"):
            said = request.WhichOneof("body") or "nothing"
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"expected Hello first, got {said}")
        key = JobKey(request.hello.namespace, request.hello.job_name)
        record = self._store.get(key)
        if record is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no job {key} here; ask the controller that started it")
            raise AssertionError
        await self._within_limits(key, record, context)
        try:
            self._store.put(greet(record, request, self._clock()))
        except StreamRefusedError as error:
            self._refuse(record, error.reason)
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        _log.info("hello", job=str(key), attempt=request.hello.attempt, prompts_done=request.hello.prompts_done)
        return key

    async def _take(self, key: JobKey, request: ReportRequest, context: Context) -> Taken:
        record = self._store.get(key)
        if record is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"job {key} was deleted")
            raise AssertionError
        await self._within_limits(key, record, context)
        try:
            taken = take(record, request, self._clock())
        except StreamRefusedError as error:
            self._refuse(record, error.reason)
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        self._store.put(taken.record)
        _log_refusals(record, taken.record)
        return taken

    async def _within_limits(self, key: JobKey, record: JobRecord, context: Context) -> None:
        if not self._buckets.take(key):
            self._refuse(record, "flood")
            said = f"{key}: expected at most {REPORTS_PER_SECOND:g} reports a second, got more; report less often"
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, said)

    def _refuse(self, record: JobRecord, reason: str) -> None:
        refused = record.refusing(reason)
        self._store.put(refused)
        _log_refusals(record, refused)


def _log_refusals(before: JobRecord, after: JobRecord) -> None:
    """Log the first, second, fourth, eighth ... refusal for a reason: a flood must not become one of the log."""
    for reason, count in after.refused.items():
        if count > before.refused.get(reason, 0) and count & (count - 1) == 0:
            _log.warning("report_refused", job=str(after.key), reason=reason, count=count)
