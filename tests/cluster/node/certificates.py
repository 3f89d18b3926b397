"""The cluster's own authority and the few certificates and keys that its programs need."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

_DAYS = "30"


@dataclass(frozen=True)
class Certificates:
    """Where the files are; each certificate NAME.crt has its key in NAME.key."""

    folder: Path

    @property
    def authority(self) -> Path:
        return self.folder / "ca.crt"

    @property
    def service_accounts(self) -> Path:
        return self.folder / "service-accounts.key"

    def pair(self, name: str) -> tuple[Path, Path]:
        return self.folder / f"{name}.crt", self.folder / f"{name}.key"


def make(folder: Path, addresses: list[str]) -> Certificates:
    """An authority, the API server's certificate for these addresses, and its client certificate for the kubelet."""
    folder.mkdir()
    certificates = Certificates(folder)
    _openssl("genpkey", "-quiet", "-algorithm", "RSA", "-out", certificates.service_accounts)
    _sign(certificates, "ca", "/CN=thinwire-test-cluster", "basicConstraints=critical,CA:TRUE")
    names = [
        *("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"),
        "localhost",
    ]
    alternatives = ",".join([*(f"DNS:{name}" for name in names), *(f"IP:{address}" for address in addresses)])
    _sign(certificates, "apiserver", "/CN=kube-apiserver", f"subjectAltName={alternatives}")
    _sign(certificates, "kubelet-client", "/O=system:masters/CN=kube-apiserver", "extendedKeyUsage=clientAuth")
    return certificates


def _sign(certificates: Certificates, name: str, subject: str, extension: str) -> None:
    certificate, key = certificates.pair(name)
    signer: list[str | Path] = []
    if certificate != certificates.authority:
        signer = ["-CA", certificates.authority, "-CAkey", certificates.pair("ca")[1]]
    _openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", _DAYS),
        *("-subj", subject, "-addext", extension, *signer, "-keyout", key, "-out", certificate),
    )


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, stdin=subprocess.DEVNULL, capture_output=True)
