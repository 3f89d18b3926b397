"""The outermost door: how many calls one peer may hold open, whoever it says it is, and messages that are none."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from thinwire.controller.security.refusals import Refusals

MOST_CALLS_OF_A_PEER = 2048
MOST_CALLS = 8192
LARGEST_MESSAGE_BYTES = 2 * 1024 * 1024

Handler = Any
Context = Any


class UnfitMessageError(Exception):
    """A message that no service is to see: too large, or bytes that are none."""

    def __init__(self, code: grpc.StatusCode, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


def _fit(data: bytes, read: Callable[[bytes], Any] | None) -> Any:
    """The parsed message; raises UnfitMessageError."""
    if len(data) > LARGEST_MESSAGE_BYTES:
        said = f"expected a message of at most {LARGEST_MESSAGE_BYTES} bytes, got {len(data)}; say less at once"
        raise UnfitMessageError(grpc.StatusCode.RESOURCE_EXHAUSTED, "message too large", said)
    try:
        return read(data) if read is not None else data
    except DecodeError:
        said = "expected a message of this method, got bytes that are none; use the protocol's own code"
        raise UnfitMessageError(grpc.StatusCode.INVALID_ARGUMENT, "message cannot be read", said) from None


def _fit_or_why(data: bytes, read: Callable[[bytes], Any] | None) -> Any:
    """The parsed message, or why it is none: what gRPC makes of an error here is a traceback."""
    try:
        return _fit(data, read)
    except UnfitMessageError as error:
        return error


def host_of(peer: str) -> str:
    """The address of a gRPC peer ("ipv4:10.0.0.7:40312") without its port."""
    return peer.rpartition(":")[0] or peer


class OpenCalls(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Refuses calls above a number, per host and in all."""

    def __init__(
        self,
        refusals: Refusals,
        most_of_a_peer: int,
        most: int,
    ) -> None:
        self._refusals = refusals
        self._most_of_a_peer = most_of_a_peer
        self._most = most
        self._open: Counter[str] = Counter()
        self._all = 0

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]], details: grpc.HandlerCallDetails
    ) -> Handler:
        """Count the call in before its handler, and out after it."""
        handler = await continuation(details)
        if handler is None:
            return None
        # The messages of a stream are parsed while it runs, under the handler; those of other calls before it.
        fit = _fit if handler.request_streaming else _fit_or_why
        serializers = (partial(fit, read=handler.request_deserializer), handler.response_serializer)
        if not handler.response_streaming:
            whole = handler.stream_unary if handler.request_streaming else handler.unary_unary
            make = (
                grpc.stream_unary_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_unary_rpc_method_handler
            )
            return make(self._counted(whole), *serializers)
        streamed = handler.stream_stream if handler.request_streaming else handler.unary_stream
        make = (
            grpc.stream_stream_rpc_method_handler if handler.request_streaming else grpc.unary_stream_rpc_method_handler
        )
        return make(self._counted_stream(streamed), *serializers)

    def _counted(self, behaviour: Callable[[Any, Context], Awaitable[Any]]) -> Callable[[Any, Context], Any]:
        async def call(request: Any, context: Context) -> Any:
            peer = await self._enter(context)
            try:
                if isinstance(request, UnfitMessageError):
                    raise request
                return await behaviour(request, context)
            except UnfitMessageError as error:
                await self._refuse(error, peer, context)
            finally:
                self._leave(peer)

        return call

    def _counted_stream(self, behaviour: Callable[[Any, Context], Any]) -> Callable[[Any, Context], Any]:
        async def call(request: Any, context: Context) -> AsyncIterator[Any]:
            peer = await self._enter(context)
            try:
                if isinstance(request, UnfitMessageError):
                    raise request
                answers = behaviour(request, context)
                if inspect.isawaitable(answers):
                    # The health service writes by its context instead of yielding.
                    await answers
                    return
                async for response in answers:
                    yield response
            except UnfitMessageError as error:
                await self._refuse(error, peer, context)
            finally:
                self._leave(peer)

        return call

    async def _refuse(self, error: UnfitMessageError, peer: str, context: Context) -> None:
        self._refusals.add(error.reason, peer=peer)
        await context.abort(error.code, str(error))

    async def _enter(self, context: Context) -> str:
        peer = host_of(context.peer())
        if self._open[peer] >= self._most_of_a_peer or self._all >= self._most:
            self._refusals.add("too many calls", peer=peer, open=self._open[peer], all=self._all)
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{peer} holds {self._open[peer]} calls open of at most {self._most_of_a_peer} "
                f"({self._all} of at most {self._most} in all); close some",
            )
        self._open[peer] += 1
        self._all += 1
        return peer

    def _leave(self, peer: str) -> None:
        self._all -= 1
        self._open[peer] -= 1
        if not self._open[peer]:
            del self._open[peer]
