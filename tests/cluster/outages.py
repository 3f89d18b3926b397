"""What happens to an API server and its etcd: killed and started again, history compacted away."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import urllib.request
from collections.abc import Mapping
from typing import Any

import psutil

from tests.cluster.control_plane import ControlPlane
from tests.harness.programs import DIES_WITH_US


def restart_api_server(plane: ControlPlane, restarted: contextlib.ExitStack, *flags: str) -> None:
    """Kill the API server and start it again with the same arguments and `flags`; `restarted` ends it."""
    server = _server(plane)
    command = [*server.cmdline(), *flags]
    server.send_signal(signal.SIGKILL)
    psutil.wait_procs([server], timeout=30)
    again = subprocess.Popen([*DIES_WITH_US, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    restarted.callback(again.wait, 60)
    restarted.callback(again.terminate)


def compact_etcd(plane: ControlPlane) -> None:
    """Throw away etcd's history up to now: a watch from any version before cannot be served any more."""
    words = _server(plane).cmdline()
    etcd = words[words.index("--etcd-servers") + 1]
    revision = _etcd(etcd, "maintenance/status", {})["header"]["revision"]
    _etcd(etcd, "kv/compaction", {"revision": revision, "physical": True})


def _server(plane: ControlPlane) -> psutil.Process:
    port = plane.url.rpartition(":")[2]
    (server,) = [
        process
        for process in psutil.process_iter(["cmdline"])
        if "--secure-port" in (process.info["cmdline"] or []) and port in process.info["cmdline"]
    ]
    return server


def _etcd(address: str, call: str, body: Mapping[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(f"{address}/v3/{call}", json.dumps(body).encode(), method="POST")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=30) as answer:
        found: dict[str, Any] = json.load(answer)
        return found
