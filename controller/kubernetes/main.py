"""`python -m thinwire.controller cluster`: operator, gRPC server and health endpoints, until told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

import structlog
from kubernetes.aio.config import ConfigException

from thinwire.controller.kubernetes.api import Api
from thinwire.controller.kubernetes.operator import Operator
from thinwire.controller.kubernetes.settings import NoClusterError, PodSettings, Settings
from thinwire.controller.server import serve

_log = structlog.get_logger(__name__)


def configure_log() -> None:
    """One JSON object a line on standard error."""
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


async def control(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Raises NoClusterError, and PortTakenError without a port."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        api = await Api.connect()
    except ConfigException as error:
        raise NoClusterError(
            f"expected a pod's own account or a KUBECONFIG, got neither ({error}); run in a cluster or set KUBECONFIG"
        ) from error
    pods = PodSettings(settings.runtime_image, settings.telemetry_address)
    operator = Operator(api, settings.namespaces, lambda: pods)
    server, port = await serve(operator.store, "[::]", settings.grpc_port)
    _log.info("controller_ready", port=port, namespaces=list(settings.namespaces) or "all")
    running = asyncio.create_task(operator.run())
    told = asyncio.create_task(stop.wait())
    await asyncio.wait({running, told}, return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        running.result()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await server.stop(grace=1.0)
    await api.close()
    _log.info("controller_stopped")
