"""At the door of the gRPC server: no call reaches a service before its caller is known and allowed to make it.

Rules are by method, and a method without a rule is refused. Health and reflection are open to all: they tell that a
controller lives and what its protocol is, which is public, and a probe or a debugging tool has no token to show.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from thinwire.controller.peers import host_of
from thinwire.controller.security.access import Access
from thinwire.controller.security.refusals import Refusals, RefusedError
from thinwire.proto.thinwire.v1alpha1 import status_pb2, telemetry_pb2
from thinwire.proto.thinwire.v1alpha1.telemetry_pb2 import ReportRequest

_STATUS = status_pb2.DESCRIPTOR.services_by_name["StatusService"].full_name
_REPORT = f"/{telemetry_pb2.DESCRIPTOR.services_by_name['TelemetryService'].full_name}/Report"
_VERBS = {
    f"/{_STATUS}/GetJob": "get",
    f"/{_STATUS}/ListJobs": "list",
    f"/{_STATUS}/WatchJob": "watch",
    f"/{_STATUS}/GetHistory": "get",
}
_OPEN = ("/grpc.health.v1.Health/", "/grpc.reflection.v1alpha.ServerReflection/")
_BEARER = "bearer "

Handler = Any
Context = Any


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Authenticates and authorises every call."""

    def __init__(self, access: Access, refusals: Refusals) -> None:
        self._access = access
        self._refusals = refusals

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]], details: grpc.HandlerCallDetails
    ) -> Handler:
        """Put the rule of the called method before its handler."""
        handler = await continuation(details)
        method = details.method
        if handler is None or method.startswith(_OPEN):
            return handler
        if method == _REPORT:
            return self._reporting(handler)
        verb = _VERBS.get(method)
        if verb is None:
            return self._refusing(handler, method)
        return self._watching(handler, verb) if handler.response_streaming else self._reading(handler, verb)

    def _reading(self, handler: Handler, verb: str) -> Handler:
        async def read(request: Any, context: Context) -> Any:
            await self._may_read(request, context, verb)
            return await handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(read, handler.request_deserializer, handler.response_serializer)

    def _watching(self, handler: Handler, verb: str) -> Handler:
        async def watch(request: Any, context: Context) -> AsyncIterator[Any]:
            await self._may_read(request, context, verb)
            async for response in handler.unary_stream(request, context):
                # A watch may last for days: a right that was taken away, or a token that expired, ends it.
                await self._may_read(request, context, verb)
                yield response

        return grpc.unary_stream_rpc_method_handler(watch, handler.request_deserializer, handler.response_serializer)

    def _reporting(self, handler: Handler) -> Handler:
        async def report(requests: AsyncIterator[ReportRequest], context: Context) -> AsyncIterator[Any]:
            try:
                reporter = await self._access.reporter(_token(context), host_of(context.peer()))
            except RefusedError as error:
                await self._refuse(error, context, _REPORT)
                raise

            async def of_its_own_job() -> AsyncIterator[ReportRequest]:
                async for request in requests:
                    if request.HasField("hello"):
                        said = (request.hello.namespace, request.hello.job_name, request.hello.attempt)
                        if said != (reporter.key.namespace, reporter.key.name, reporter.attempt):
                            await self._refuse(_of_another(reporter.pod_name, str(reporter.key)), context, _REPORT)
                    yield request

            async for response in handler.stream_stream(of_its_own_job(), context):
                yield response

        return grpc.stream_stream_rpc_method_handler(report, handler.request_deserializer, handler.response_serializer)

    def _refusing(self, handler: Handler, method: str) -> Handler:
        async def refuse(_: Any, context: Context) -> None:
            said = f"{method} has no rule of access; this is a fault of the controller"
            await self._refuse(
                RefusedError(grpc.StatusCode.PERMISSION_DENIED, "method without a rule", said), context, method
            )

        if handler.response_streaming or handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(refuse)
        return grpc.unary_unary_rpc_method_handler(refuse)

    async def _may_read(self, request: Any, context: Context, verb: str) -> None:
        name = getattr(request, "name", "")
        try:
            await self._access.may_read(_token(context), host_of(context.peer()), verb, request.namespace, name)
        except RefusedError as error:
            await self._refuse(error, context, verb)

    async def _refuse(self, error: RefusedError, context: Context, what: str) -> None:
        self._refusals.add(error.reason, what=what, peer=context.peer(), message=str(error))
        await context.abort(error.code, str(error))


def _of_another(pod_name: str, own: str) -> RefusedError:
    said = f"pod {pod_name} may report for its own job and attempt alone: {own}"
    return RefusedError(grpc.StatusCode.PERMISSION_DENIED, "hello of another job", said)


def _token(context: Context) -> str:
    """The bearer token of a call; empty without one. Never log it."""
    for key, value in context.invocation_metadata() or ():
        if key == "authorization" and isinstance(value, str) and value[: len(_BEARER)].lower() == _BEARER:
            return value[len(_BEARER) :].strip()
    return ""
