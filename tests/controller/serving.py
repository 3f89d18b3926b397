"""A real controller server on a free port, its event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import grpc

from thinwire.controller.job_record import JobKey, JobRecord
from thinwire.controller.job_store import JobStore
from thinwire.controller.security.open import Security
from thinwire.controller.server import serve
from thinwire.proto.thinwire.v1alpha1.status_pb2_grpc import StatusServiceStub
from thinwire.proto.thinwire.v1alpha1.telemetry_pb2_grpc import TelemetryServiceStub

KEY = JobKey("default", "emoji")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Served:
    store: JobStore
    loop: asyncio.AbstractEventLoop
    port: int
    channel: grpc.Channel
    security: Security | None = None

    @property
    def status(self) -> StatusServiceStub:
        return StatusServiceStub(self.channel)

    @property
    def telemetry(self) -> TelemetryServiceStub:
        return TelemetryServiceStub(self.channel)

    def inside(self, call: Callable[[], Result]) -> Result:
        """Run `call` in the server's event loop."""

        async def wrapped() -> Result:
            return call()

        return asyncio.run_coroutine_threadsafe(wrapped(), self.loop).result(30)

    def record(self) -> JobRecord:
        found = self.inside(lambda: self.store.get(KEY))
        assert found is not None
        return found


@contextlib.contextmanager
def served(*records: JobRecord, opening: Callable[[], Awaitable[Security]] | None = None) -> Iterator[Served]:
    """Serve these jobs; with `opening` over TLS and to those alone whom it lets in."""
    store = JobStore()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> tuple[grpc.aio.Server, int, Security | None]:
        for record in records:
            store.put(record)
        security = await opening() if opening else None
        return *await serve(store, "127.0.0.1", 0, security), security

    server, port, security = asyncio.run_coroutine_threadsafe(start(), loop).result(60)
    try:
        with channel_to(port, security) as channel:
            yield Served(store, loop, port, channel, security)
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(0), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


def channel_to(port: int, security: Security | None) -> grpc.Channel:
    """A channel of its own, certificate checks on where there is TLS."""
    address, options = f"127.0.0.1:{port}", [("grpc.enable_http_proxy", 0)]
    if security is None:
        return grpc.insecure_channel(address, options=options)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(security.authorities), options=options)
