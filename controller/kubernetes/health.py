"""/healthz, /readyz and /metrics over plain HTTP, answered by the event loop that does the work: they hang with it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from thinwire.controller.server import PortTakenError


@asynccontextmanager
async def health_server(port: int, registry: CollectorRegistry, unready: Callable[[], str]) -> AsyncIterator[int]:
    """Serve while the body runs; `unready` says why no work is done yet, empty if it is. Raises PortTakenError."""

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        why = unready()
        return web.Response(status=503, text=f"{why}\n") if why else web.Response(text="ok\n")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    application = web.Application()
    application.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, port=port)
        try:
            await site.start()
        except OSError as error:
            raise PortTakenError(f"port {port} cannot be listened on ({error.strerror}); choose --http-port") from error
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
