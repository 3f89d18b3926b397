"""What the controller keeps about its certificates, and how it is renewed: a pure function of material and time.

A serving certificate is renewed when a third of its life is left. An authority is relieved without anybody noticing:
two years before its end a successor is made and published beside it; one year before its end the successor begins to
sign. So whoever read the published authorities within the last year trusts the serving certificate of today. Attempts
of a job get the authorities of their own beginning, and no attempt lasts that long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from thinwire.controller.security.certificates import (
    SERVING_LIFETIME,
    CertificateError,
    KeyPair,
    expiry,
    is_signed_by,
    loaded,
    names_of,
    new_authority,
    new_serving,
)

SERVING_MARGIN = SERVING_LIFETIME / 3
SUCCESSOR_MARGIN = timedelta(days=730)
RELIEF_MARGIN = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class Material:
    """Everything of one controller: who signs, who will, who did and is trusted still, and what is served."""

    signer: KeyPair
    serving: KeyPair
    successor: KeyPair | None = None
    retired: bytes = b""

    @property
    def authorities(self) -> bytes:
        """What clients must trust, in PEM: the signer first."""
        successor = self.successor.certificate if self.successor else b""
        return self.signer.certificate + successor + self.retired

    def files(self) -> dict[str, bytes]:
        """The material as a Secret keeps it."""
        kept = {
            "ca.crt": self.authorities,
            "signer.crt": self.signer.certificate,
            "signer.key": self.signer.key,
            "tls.crt": self.serving.certificate,
            "tls.key": self.serving.key,
            "retired.crt": self.retired,
        }
        if self.successor is not None:
            kept |= {"successor.crt": self.successor.certificate, "successor.key": self.successor.key}
        return kept

    @classmethod
    def of_files(cls, kept: Mapping[str, bytes]) -> Material:
        """Read what `files` wrote; raises CertificateError that names what is missing or broken."""
        successor = _pair(kept, "successor") if "successor.crt" in kept else None
        return cls(_pair(kept, "signer"), _pair(kept, "tls"), successor, kept.get("retired.crt", b""))


def first(names: Sequence[str], now: datetime) -> Material:
    """The material of a controller that has none yet."""
    signer = new_authority(now)
    return Material(signer, new_serving(signer, names, now))


def renewed(material: Material, names: Sequence[str], now: datetime) -> Material:
    """The same object while nothing is due, else the next material."""
    left = expiry(material.signer.certificate) - now
    if left < timedelta(0):
        return first(names, now)
    if material.successor is None and left < SUCCESSOR_MARGIN:
        material = replace(material, successor=new_authority(now))
    if material.successor is not None and left < RELIEF_MARGIN:
        material = replace(material, signer=material.successor, successor=None, retired=material.signer.certificate)
    if material.retired and expiry(material.retired) < now:
        material = replace(material, retired=b"")
    if _serving_is_due(material, names, now):
        material = replace(material, serving=new_serving(material.signer, names, now))
    return material


def _serving_is_due(material: Material, names: Sequence[str], now: datetime) -> bool:
    served = material.serving.certificate
    return (
        expiry(served) - now < SERVING_MARGIN
        or not names_of(served) >= set(names)
        or not is_signed_by(served, material.signer.certificate)
    )


def _pair(kept: Mapping[str, bytes], name: str) -> KeyPair:
    try:
        pair = KeyPair(kept[f"{name}.crt"], kept[f"{name}.key"])
    except KeyError as missing:
        raise CertificateError(f"expected the key {missing} in the Secret, got {sorted(kept)}") from None
    try:
        loaded(pair)
    except CertificateError as error:
        raise CertificateError(f"{name}.crt and {name}.key of the Secret: {error}") from None
    return pair
