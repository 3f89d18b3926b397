"""Where a controller is asked, and how: plain on this machine, by TLS and with the asker's own token elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field

import grpc

from thinwire.controller.cli.errors import Failed

_IN_WORDS = (
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.NOT_FOUND,
)


class AwayError(Failed):
    """Nobody answers for now; the same question may be answered later."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One controller. `label` is what people read; without `authorities` (PEM) the line is plain."""

    label: str
    target: str
    authorities: bytes = b""
    server_name: str = ""
    token: str = field(default="", repr=False)

    def channel(self) -> grpc.Channel:
        """A channel to it; with TLS the certificate must be of `server_name` (the target's host, if empty)."""
        options: list[tuple[str, int | str]] = [("grpc.enable_http_proxy", 0)]
        if not self.authorities:
            return grpc.insecure_channel(self.target, options=options)
        if self.server_name:
            options.append(("grpc.ssl_target_name_override", self.server_name))
        return grpc.secure_channel(self.target, grpc.ssl_channel_credentials(self.authorities), options=options)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call says of the asker. A token is never sent over a plain line."""
        return (("authorization", f"Bearer {self.token}"),) if self.token and self.authorities else ()

    def failed(self, error: grpc.RpcError) -> Failed:
        """What a call that did not succeed means for the asker."""
        code, details = error.code(), error.details() or ""
        if code in _IN_WORDS:
            return Failed(f"{self.label}: {details}")
        if "CERTIFICATE_VERIFY_FAILED" in details or "Hostname Verification" in details:
            why = details.rpartition("SSL routines:")[2] or details
            return Failed(
                f"the controller at {self.label} shows a certificate that cannot be trusted ({why}); "
                "name the right controller with --controller, or its authority with --ca-file"
            )
        return AwayError(f"no controller answers at {self.label} ({code.name}); check the address")
