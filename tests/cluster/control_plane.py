"""etcd and an API server of this test run's own: real ones, on free ports of 127.0.0.1, gone when the run is.

Both die with the process that started them (`setpriv --pdeathsig`), also when it is killed; what a killed run left in
the temporary folder is swept by the next one.
"""

from __future__ import annotations

import contextlib
import fcntl
import secrets
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from kubernetes import client

from tests.cluster.binaries import Binaries, ToolMissingError

READY_SECONDS = 180.0
"""Far more than the few seconds it takes: a busy machine must not fail a test."""

_STOP_SECONDS = 60.0
_STARTS = 3
_PREFIX = "thinwire-cluster-"


@dataclass(frozen=True)
class ControlPlane:
    """Where the API server listens, and an administrator's token for it."""

    url: str
    certificate: Path
    token: str

    def api_client(self) -> client.ApiClient:
        """A client of its own, certificate checks on."""
        configuration = client.Configuration()
        configuration.host = self.url
        configuration.ssl_ca_cert = str(self.certificate)
        configuration.api_key = {"authorization": f"Bearer {self.token}"}
        configuration.no_proxy = "127.0.0.1"
        return client.ApiClient(configuration)


class NotStartedError(Exception):
    """A program ended or was not ready in time; the message has the end of its log."""


@contextlib.contextmanager
def control_plane(binaries: Binaries) -> Iterator[ControlPlane]:
    """Start both, wait until they are ready, and end both with the body."""
    _sweep()
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name, (Path(name) / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for chance in range(1, _STARTS + 1):
            folder = Path(name) / str(chance)
            folder.mkdir()
            with contextlib.ExitStack() as running:
                try:
                    started = _start(binaries, folder, running)
                except NotStartedError:
                    # Another program may have taken a port between its choice and its use.
                    if chance == _STARTS:
                        raise
                    continue
                yield started
                return


def _start(binaries: Binaries, folder: Path, running: contextlib.ExitStack) -> ControlPlane:
    etcd_port, peer_port, port = _free_ports(3)
    etcd, peer = f"http://127.0.0.1:{etcd_port}", f"http://127.0.0.1:{peer_port}"
    key, tokens, token = folder / "service-accounts.key", folder / "tokens.csv", secrets.token_hex(16)
    _make_key(key)
    tokens.write_text(f'{token},admin,admin,"system:masters"\n', encoding="utf-8")
    running.enter_context(
        _program(
            [
                str(binaries.etcd),
                *("--data-dir", str(folder / "etcd"), "--unsafe-no-fsync", "--logger", "zap", "--log-level", "warn"),
                *("--listen-client-urls", etcd, "--advertise-client-urls", etcd),
                *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
                *("--initial-cluster", f"default={peer}"),
            ],
            folder / "etcd.log",
        )
    )
    server = running.enter_context(
        _program(
            [
                str(binaries.api_server),
                *("--etcd-servers", etcd, "--bind-address", "127.0.0.1", "--secure-port", str(port)),
                *("--cert-dir", str(folder / "certificates"), "--service-cluster-ip-range", "10.96.0.0/16"),
                *("--authorization-mode", "RBAC", "--token-auth-file", str(tokens)),
                *("--service-account-issuer", "https://kubernetes.default.svc"),
                *("--service-account-key-file", str(key), "--service-account-signing-key-file", str(key)),
                *("--endpoint-reconciler-type", "none", "--profiling=false"),
            ],
            folder / "kube-apiserver.log",
        )
    )
    plane = ControlPlane(f"https://127.0.0.1:{port}", folder / "certificates" / "apiserver.crt", token)
    _await_ready(plane, server, folder)
    return plane


def _await_ready(plane: ControlPlane, server: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not _ready(plane):
        if server.poll() is not None or time.monotonic() > deadline:
            ended = "it ended" if server.poll() is not None else f"it was not ready in {READY_SECONDS:.0f} s"
            said = "\n".join(
                f"{log.name}: {line}"
                for log in sorted(folder.glob("*.log"))
                for line in log.read_text(encoding="utf-8", errors="replace").splitlines()[-10:]
            )
            raise NotStartedError(f"expected a ready API server, but {ended}:\n{said}")
        time.sleep(0.05)


def _ready(plane: ControlPlane) -> bool:
    if not plane.certificate.exists():
        return False
    request = urllib.request.Request(f"{plane.url}/readyz", headers={"Authorization": f"Bearer {plane.token}"})
    try:
        context = ssl.create_default_context(cafile=str(plane.certificate))
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        with opener.open(request, timeout=10) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@contextlib.contextmanager
def _program(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        process = _started(command, file)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _started(command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [_tool("setpriv", "util-linux"), "--pdeathsig", "KILL", "--", *command],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
    )


def _make_key(path: Path) -> None:
    command = [_tool("openssl", "openssl"), "genpkey", "-quiet", "-algorithm", "RSA", "-out", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def _tool(name: str, package: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise ToolMissingError(f"expected {name} on PATH, got none; install the package {package}")
    return path


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _sweep() -> None:
    """Remove the folders of runs that were killed: nobody holds their lock."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            with (folder / ".lock").open("r") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue
