"""What the controller of a cluster was told on its command line."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Settings:
    """`namespaces` empty: all of them. `telemetry_address` is host:port as pods dial it."""

    namespaces: tuple[str, ...]
    runtime_image: str
    telemetry_address: str
    own_namespace: str
    lease_name: str = "thinwire-controller"
    leader_elect: bool = True
    grpc_port: int = 8443
    http_port: int = 8080
    tls_dir: Path | None = None
    tls_secret: str = ""


@dataclass(frozen=True, slots=True)
class PodSettings:
    """What every pod of a rank is told, whatever its job. `authority` is PEM; empty: telemetry goes without TLS."""

    image: str
    telemetry_address: str
    authority: str = ""


class NoClusterError(Exception):
    """No API server is known; the message says what to do."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the mode `cluster`."""
    parser.add_argument(
        "--namespace", action="append", default=[], metavar="NS", help="look after this namespace only; may be repeated"
    )
    parser.add_argument("--runtime-image", required=True, help="image of the ranks")
    parser.add_argument("--telemetry-address", required=True, metavar="HOST:PORT", help="where pods reach this server")
    parser.add_argument("--own-namespace", default=os.environ.get("POD_NAMESPACE", ""), help="namespace of the Lease")
    parser.add_argument("--lease-name", default="thinwire-controller")
    parser.add_argument("--no-leader-elect", action="store_true", help="there is no other replica")
    parser.add_argument("--grpc-port", type=int, default=8443)
    parser.add_argument("--http-port", type=int, default=8080, help="/metrics, /healthz and /readyz")
    certificate = parser.add_mutually_exclusive_group()
    certificate.add_argument("--tls-dir", type=Path, help="folder with tls.crt, tls.key and ca.crt")
    certificate.add_argument(
        "--tls-secret", default="", help="Secret of the own namespace that keeps a certificate made here"
    )


def settings_of(asked: argparse.Namespace) -> Settings:
    """The flags as a value."""
    return Settings(
        namespaces=tuple(asked.namespace),
        runtime_image=asked.runtime_image,
        telemetry_address=asked.telemetry_address,
        own_namespace=asked.own_namespace,
        lease_name=asked.lease_name,
        leader_elect=not asked.no_leader_elect,
        grpc_port=asked.grpc_port,
        http_port=asked.http_port,
        tls_dir=asked.tls_dir,
        tls_secret=asked.tls_secret,
    )
