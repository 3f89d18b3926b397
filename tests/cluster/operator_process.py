"""A real controller process against the test's API server, and the parts of a cluster that the test itself plays."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.control_plane import ControlPlane

RUNTIME_IMAGE = "thinwire-runtime:test"


@dataclass
class OperatorProcess:
    """One running controller: its process, its ports and what it has logged."""

    process: subprocess.Popen[bytes]
    grpc_port: int
    http_port: int
    log: Path

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The lines of the log with this event."""
        whole = self.log.read_text(encoding="utf-8").rpartition("\n")[0]  # it may be writing one
        said = [json.loads(line) for line in whole.splitlines() if line.startswith("{")]
        return [one for one in said if one["event"] == event]

    def http(self, path: str) -> str:
        """What an endpoint answers, once it does."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://127.0.0.1:{self.http_port}{path}", timeout=60) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            return error.read().decode()

    def answers(self, path: str, words: str) -> bool:
        """Whether an endpoint is there and answers with these words."""
        try:
            return words in self.http(path)
        except urllib.error.URLError:
            return False

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def write_kubeconfig(plane: ControlPlane, path: Path, token: str | None = None) -> Path:
    """A kubeconfig for the administrator, or for whoever has `token`."""
    named = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [
            {"name": "test", "cluster": {"server": plane.url, "certificate-authority": str(plane.certificate)}}
        ],
        "users": [{"name": "test", "user": {"token": token or plane.token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    }
    path.write_text(json.dumps(named), encoding="utf-8")
    return path


@contextlib.contextmanager
def operator_process(
    plane: ControlPlane, *flags: str, token: str | None = None, grpc_port: int = 0
) -> Iterator[OperatorProcess]:
    """Start a controller for all namespaces, and end it with the body."""
    with tempfile.TemporaryDirectory(prefix="thinwire-operator-") as name:
        folder = Path(name)
        free_port, http_port = free_ports(2)
        grpc_port = grpc_port or free_port
        log = folder / "log"
        command = [
            *(sys.executable, "-m", "thinwire.controller", "cluster", "--runtime-image", RUNTIME_IMAGE),
            *("--telemetry-address", f"127.0.0.1:{grpc_port}", "--grpc-port", str(grpc_port)),
            *("--http-port", str(http_port), "--own-namespace", "default", *flags),
        ]
        kubeconfig = write_kubeconfig(plane, folder / "kubeconfig", token)
        environment = os.environ | {"KUBECONFIG": str(kubeconfig), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        with log.open("wb") as file:
            process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, stdin=subprocess.DEVNULL)
        try:
            yield OperatorProcess(process, grpc_port, http_port, log)
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
