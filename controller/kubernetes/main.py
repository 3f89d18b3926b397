"""`python -m thinwire.controller cluster`: operator, gRPC server and health endpoints, until told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog
from kubernetes.aio.config import ConfigException
from prometheus_client import Gauge

from thinwire.controller.kubernetes.api import Api
from thinwire.controller.kubernetes.election import LeaseLostError, give_up, lead
from thinwire.controller.kubernetes.health import health_server
from thinwire.controller.kubernetes.metrics import Counts, JobFigures, Metrics
from thinwire.controller.kubernetes.operator import Operator
from thinwire.controller.kubernetes.settings import NoClusterError, PodSettings, Settings
from thinwire.controller.security.certificates import CertificateError
from thinwire.controller.security.cluster import ClusterError
from thinwire.controller.security.open import Security, open_security
from thinwire.controller.server import serve

_STOP_SECONDS = 15.0

_log = structlog.get_logger(__name__)


def configure_log() -> None:
    """One JSON object a line on standard error, those of the libraries among them."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.WARNING,
        format='{"event": "library_log", "logger": "%(name)s", "level": "%(levelname)s"}',
    )


@dataclass
class _Controller:
    """One replica: what it was told, what it counts, and why it does no work yet."""

    settings: Settings
    api: Api
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    metrics: Metrics = field(default_factory=Metrics)
    unready: str = "waiting for the Lease: another replica works"
    leads: bool = False

    async def run(self) -> None:
        """Work, after waiting for the Lease if there may be others, until told to stop."""
        settings = self.settings
        identity = f"{socket.gethostname()}_{os.getpid()}_{int(time.time())}"
        where = (settings.own_namespace, settings.lease_name, identity)
        working = lead(self.api.client, *where, self._work) if settings.leader_elect else self._work()
        task, told = asyncio.ensure_future(working), asyncio.create_task(self.stop.wait())
        await asyncio.wait({task, told}, return_when=asyncio.FIRST_COMPLETED)
        if self.leads:
            await asyncio.wait_for(task, _STOP_SECONDS)
            if settings.leader_elect:
                await give_up(self.api.client, *where)
        elif task.done():
            task.result()
        else:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _work(self) -> None:
        self.leads, self.unready = True, "caches are being filled"
        self.metrics.leader.set(1)
        async with self._operating() as operator:
            if not await _before(self.stop, operator.synced):
                return
            server, port = await serve(operator.store, "[::]", self.settings.grpc_port, self._security)
            self.unready = ""
            _log.info("controller_ready", port=port, tls=self._security is not None)
            await self.stop.wait()
            self.unready = "stopping"
            await server.stop(grace=1.0)

    @asynccontextmanager
    async def _operating(self) -> AsyncIterator[Operator]:
        settings = self.settings
        self._security = security = await self._open_security()

        def pods() -> PodSettings:
            authority = security.authorities.decode() if security else ""
            return PodSettings(settings.runtime_image, settings.telemetry_address, authority)

        operator = Operator(self.api, settings.namespaces, pods, self.metrics)
        self._operator = operator
        self._collect(operator, security)
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(_endless(operator.run()))]
            if security is not None:
                running.append(tasks.create_task(_endless(security.run())))
            yield operator
            for task in running:
                task.cancel()

    async def _open_security(self) -> Security | None:
        settings = self.settings
        if settings.tls_dir is None and not settings.tls_secret:
            _log.warning("serving_without_tls", remedy="give --tls-secret NAME or --tls-dir DIR")
            return None
        return await open_security(
            self.api.client,
            own_namespace=settings.own_namespace,
            tls_dir=settings.tls_dir,
            tls_secret=settings.tls_secret,
            names=[settings.telemetry_address.rpartition(":")[0]],
            cached_pod=lambda namespace, name: self._operator.gangs.pods.get(namespace, name),
        )

    def _collect(self, operator: Operator, security: Security | None) -> None:
        registry = self.metrics.registry
        registry.register(JobFigures(operator.store.all, time.time))
        relists = Counts("relists", "Lists of whole collections.", "resource", operator.relists)
        registry.register(relists)
        if security is not None:
            refused = Counts("calls_refused", "Calls that were not let in.", "reason", security.refusals.counts)
            registry.register(refused)
            about = "When the serving certificate ends, in seconds since the epoch."
            ends = Gauge("thinwire_controller_certificate_expires_seconds", about, registry=registry)
            ends.set_function(lambda: security.certificate.expires.timestamp())


async def control(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; 0 then, 1 if the work was lost to another replica or cannot be begun.

    Raises:
        NoClusterError: no API server is known.
        PortTakenError: a port cannot be had.
    """
    try:
        api = await Api.connect()
    except ConfigException as error:
        raise NoClusterError(
            f"expected a pod's own account or a KUBECONFIG, got neither ({error}); run in a cluster or set KUBECONFIG"
        ) from error
    controller = _Controller(settings, api)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, controller.stop.set)
    try:
        async with health_server(settings.http_port, controller.metrics.registry, lambda: controller.unready) as port:
            _log.info("controller_started", http_port=port, namespaces=list(settings.namespaces) or "all")
            await controller.run()
    except (LeaseLostError, CertificateError, ClusterError) as error:
        _log.error("controller_ends", reason=str(error))
        return 1
    finally:
        await api.close()
    _log.info("controller_stopped")
    return 0


async def _before(stop: asyncio.Event, event: asyncio.Event) -> bool:
    """Wait for either; whether `event` came."""
    waiting = [asyncio.ensure_future(one.wait()) for one in (stop, event)]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for one in waiting:
        one.cancel()
    return event.is_set() and not stop.is_set()


async def _endless(work: Awaitable[Any]) -> None:
    await work
    raise AssertionError("expected work that goes on until it is cancelled, but it returned")
