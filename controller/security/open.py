"""Everything that the gRPC server of a cluster needs to be safe: `open_security` makes it, `serve` takes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
from kubernetes.aio import client

from thinwire.controller.security.access import Access, CachedPod
from thinwire.controller.security.cluster import Cluster
from thinwire.controller.security.guard import Guard
from thinwire.controller.security.refusals import Refusals
from thinwire.controller.security.serving import FolderSource, SecretSource, ServingCertificate

AUTHORITY_CONFIG_MAP = "thinwire-ca"
AUTHORITY_KEY = "ca.crt"
SERVICE_NAME = "thinwire-controller"


@dataclass(frozen=True, slots=True)
class Security:
    """What `serve` takes, and what the rest of a controller asks of it."""

    credentials: grpc.ServerCredentials
    interceptors: tuple[Guard, ...]
    refusals: Refusals
    certificate: ServingCertificate
    cluster: Cluster
    own_namespace: str

    @property
    def authorities(self) -> bytes:
        """PEM bundle for the `ca.crt` of an attempt's ConfigMap. Ask anew for every attempt."""
        return self.certificate.authorities

    async def run(self) -> None:
        """Keep the certificate and the published authorities current until cancelled."""
        await self.certificate.keep_current(self.publish)

    async def publish(self, authorities: bytes) -> None:
        """Make the ConfigMap that people outside read the authorities from; raises ClusterError."""
        await self.cluster.publish(self.own_namespace, AUTHORITY_CONFIG_MAP, {AUTHORITY_KEY: authorities.decode()})


async def open_security(
    api_client: client.ApiClient,
    *,
    own_namespace: str,
    tls_dir: Path | None = None,
    tls_secret: str = "",
    names: Sequence[str] = (),
    cached_pod: CachedPod | None = None,
) -> Security:
    """Make the certificate ready and return what `serve(store, host, port, security=...)` takes.

    The controller's `cluster` entry calls this once, before it serves; then it runs `Security.run()` as a task of its
    own beside the server, and writes `Security.authorities` into the ConfigMap of every attempt.

    `api_client` is the official client's asyncio half, made in this event loop. The certificate is read from `tls_dir`
    (tls.crt, tls.key, ca.crt), or else made and kept in the Secret `tls_secret` of `own_namespace`; it is made for the
    names of the Service and for `names`. `cached_pod(namespace, name)` may give a raw pod without asking; it may be
    behind, then the API server is asked.

    Raises:
        ValueError: neither or both of `tls_dir` and `tls_secret`.
        CertificateError: what is there cannot be used; the message says what to do.
        ClusterError: the API server refused or did not answer.
    """
    if (tls_dir is None) == (not tls_secret):
        raise ValueError("expected either --tls-dir DIR or --tls-secret NAME, got " + ("both" if tls_dir else "none"))
    cluster = Cluster(api_client)
    source = (
        FolderSource(tls_dir)
        if tls_dir
        else SecretSource(cluster, own_namespace, tls_secret, _names(own_namespace, names))
    )
    certificate = ServingCertificate(source)
    await certificate.refresh()
    refusals = Refusals()
    access = Access(cluster, cached_pod)
    security = Security(
        certificate.credentials(), (Guard(access, refusals),), refusals, certificate, cluster, own_namespace
    )
    await security.publish(certificate.authorities)
    return security


def _names(own_namespace: str, names: Sequence[str]) -> list[str]:
    """The names that pods dial, those of a port-forward, and what the caller adds."""
    service = f"{SERVICE_NAME}.{own_namespace}"
    own = [f"{service}.svc", service, SERVICE_NAME, f"{service}.svc.cluster.local", "localhost", "127.0.0.1"]
    return list(dict.fromkeys([*own, *names]))
