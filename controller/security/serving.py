"""Where the serving certificate comes from, and how it is kept current while streams run.

gRPC asks for the pair at every handshake, so a renewed certificate serves the next connection and those that are open
go on. A pair that cannot be used is never taken: the one in use stays until a good one comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import grpc
import structlog

from thinwire.controller.security.certificates import CertificateError, KeyPair, check_pair, expiry
from thinwire.controller.security.cluster import ClusterError, Kept
from thinwire.controller.security.rotation import Material, first, renewed

_log = structlog.get_logger(__name__)

FOLDER_SECONDS = 10.0
SECRET_SECONDS = 600.0
_TRIES = 5


class Served(Protocol):
    """A source of the pair that is served and of the authorities that clients need to trust."""

    every_seconds: float

    async def read(self) -> tuple[KeyPair, bytes]:
        """The pair and the authorities as they are now; raises CertificateError or ClusterError."""


class FolderSource:
    """tls.crt, tls.key and ca.crt of a folder that somebody else renews: cert-manager, or a mounted Secret."""

    every_seconds = FOLDER_SECONDS

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def read(self) -> tuple[KeyPair, bytes]:
        """Read the three files; raises CertificateError."""
        pair = KeyPair(self._file("tls.crt"), self._file("tls.key"))
        authorities = self._file("ca.crt")
        check_pair(pair, authorities)
        return pair, authorities

    def _file(self, name: str) -> bytes:
        try:
            return (self._folder / name).read_bytes()
        except OSError as error:
            raise CertificateError(
                f"expected tls.crt, tls.key and ca.crt in {self._folder}, but {name} cannot be read "
                f"({error.strerror}); mount the Secret there"
            ) from None


class Secrets(Protocol):
    """One Secret by name; raises ClusterError."""

    async def secret(self, namespace: str, name: str) -> Kept | None:
        """Its content, or None if there is none."""

    async def keep_secret(self, namespace: str, name: str, files: dict[str, bytes], version: str) -> bool:
        """Create it (empty version) or replace this version of it; False if somebody else was faster."""


class SecretSource:
    """The controller's own authority and certificates, in one Secret that all its replicas share."""

    every_seconds = SECRET_SECONDS

    def __init__(
        self,
        secrets: Secrets,
        namespace: str,
        name: str,
        names: Sequence[str],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._secrets = secrets
        self._namespace = namespace
        self._name = name
        self._names = tuple(names)
        self._clock = clock

    async def read(self) -> tuple[KeyPair, bytes]:
        """Read the Secret, after making or renewing what is due; raises CertificateError or ClusterError."""
        for _ in range(_TRIES):
            kept = await self._secrets.secret(self._namespace, self._name)
            before = self._material(kept)
            now = self._clock()
            after = first(self._names, now) if before is None else renewed(before, self._names, now)
            version = kept.version if kept is not None else ""
            if after is before or await self._secrets.keep_secret(self._namespace, self._name, after.files(), version):
                if after is not before:
                    until = expiry(after.serving.certificate).isoformat()
                    _log.info("certificate_made", secret=f"{self._namespace}/{self._name}", until=until)
                return after.serving, after.authorities
        raise ClusterError(f"Secret {self._namespace}/{self._name} changed {_TRIES} times while it was renewed")

    def _material(self, kept: Kept | None) -> Material | None:
        if kept is None or not kept.files:
            # A chart may make the Secret empty, so that `create` on Secrets is no right of the controller.
            return None
        try:
            return Material.of_files(kept.files)
        except CertificateError as error:
            raise CertificateError(
                f"Secret {self._namespace}/{self._name}: {error}; delete it and the controller makes a new one"
            ) from None


class ServingCertificate:
    """The pair in use, and the authorities that go with it."""

    def __init__(self, source: Served) -> None:
        self._source = source
        self._pair: KeyPair | None = None
        self._given: KeyPair | None = None
        self._authorities = b""

    @property
    def authorities(self) -> bytes:
        """What clients must trust now, in PEM."""
        return self._authorities

    @property
    def expires(self) -> datetime:
        """When the certificate in use ends."""
        assert self._pair is not None
        return expiry(self._pair.certificate)

    async def refresh(self) -> bool:
        """Read the source; returns whether anything changed. Raises CertificateError or ClusterError."""
        pair, authorities = await self._source.read()
        changed = (pair, authorities) != (self._pair, self._authorities)
        self._pair, self._authorities = pair, authorities
        return changed

    async def keep_current(self, publish: Callable[[bytes], Awaitable[None]]) -> None:
        """Refresh now and then until cancelled, and `publish` the authorities each time: what somebody deleted or
        changed comes back. What fails is logged and tried again.
        """
        while True:
            await asyncio.sleep(self._source.every_seconds)
            try:
                if await self.refresh():
                    _log.info("certificate_changed", until=self.expires.isoformat())
                await publish(self._authorities)
            except (CertificateError, ClusterError) as error:
                _log.error("certificate_not_refreshed", reason=str(error), until=self.expires.isoformat())

    def credentials(self) -> grpc.ServerCredentials:
        """Credentials for a gRPC server that always shows the newest pair."""
        self._given = self._pair
        return grpc.dynamic_ssl_server_credentials(self._configuration(), self._newest, False)  # type: ignore[arg-type]  # None is allowed

    def _newest(self) -> grpc.ServerCertificateConfiguration | None:
        """Called by gRPC at every handshake, on a thread of its own; None: the one it has is the newest."""
        if self._pair is self._given:
            return None
        self._given = self._pair
        return self._configuration()

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        assert self._pair is not None
        return grpc.ssl_server_certificate_configuration([(self._pair.key, self._pair.certificate)])
