"""The controller's gRPC server: telemetry, status, health and reflection behind one port.

With a `Security` it speaks TLS and lets in whom the cluster lets in. Without one it is plain and lets in everybody,
which is right on 127.0.0.1 alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from thinwire.controller.job_store import JobStore
from thinwire.controller.peers import LARGEST_MESSAGE_BYTES, MOST_CALLS, MOST_CALLS_OF_A_PEER, OpenCalls
from thinwire.controller.security.refusals import Refusals
from thinwire.controller.status_service import StatusService
from thinwire.controller.telemetry_service import TelemetryService
from thinwire.proto.thinwire.v1alpha1 import status_pb2, status_pb2_grpc, telemetry_pb2, telemetry_pb2_grpc

if TYPE_CHECKING:
    # A local run starts without the Kubernetes client.
    from thinwire.controller.security.open import Security

_MOST_STREAMS = 4096
_LONGEST_HEADERS_BYTES = 64 * 1024

_OPTIONS = [
    # A port that somebody else listens on must be an error, not a port shared with a stranger.
    ("grpc.so_reuseport", 0),
    # What is over the limit is refused by OpenCalls and counted; what is twice over, by gRPC before it is held.
    ("grpc.max_receive_message_length", 2 * LARGEST_MESSAGE_BYTES),
    ("grpc.max_concurrent_streams", _MOST_STREAMS),
    # Room for a token of a few kilobytes, which some identity providers give out.
    ("grpc.max_metadata_size", _LONGEST_HEADERS_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Ranks ping every 30 s, in silence too; the default would close them with too_many_pings.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 0),
]


class PortTakenError(Exception):
    """The address cannot be listened on; the message says what to do."""


async def serve(store: JobStore, host: str, port: int, security: Security | None = None) -> tuple[grpc.aio.Server, int]:
    """Start the server; port 0 takes any free one. Returns the server and its port; raises PortTakenError."""
    refusals = security.refusals if security else Refusals()
    guards = security.interceptors if security else ()
    server = grpc.aio.server(
        options=_OPTIONS, interceptors=(OpenCalls(refusals, MOST_CALLS_OF_A_PEER, MOST_CALLS), *guards)
    )
    telemetry_pb2_grpc.add_TelemetryServiceServicer_to_server(TelemetryService(store), server)
    status_pb2_grpc.add_StatusServiceServicer_to_server(StatusService(store, tells_names=security is None), server)
    names = [
        telemetry_pb2.DESCRIPTOR.services_by_name["TelemetryService"].full_name,
        status_pb2.DESCRIPTOR.services_by_name["StatusService"].full_name,
    ]
    health = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    for name in ("", *names):
        await health.set(name, health_pb2.HealthCheckResponse.SERVING)
    reflection.enable_server_reflection(
        [*names, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME], server
    )
    try:
        if security is None:
            bound = server.add_insecure_port(f"{host}:{port}")
        else:
            bound = server.add_secure_port(f"{host}:{port}", security.credentials)
    except RuntimeError:
        bound = 0
    if not bound:
        raise PortTakenError(f"port {port} of {host} is taken or not allowed; choose another, or leave it to thinwire")
    await server.start()
    return server, bound
