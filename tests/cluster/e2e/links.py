"""The links of pods, shaped on the node while a job runs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from tests.cluster.node.cluster import Cluster

BRIDGE = "cni0"


def link_of(cluster: Cluster, pod: dict[str, Any]) -> str:
    """The node's end of a pod's veth pair: the bridge's port behind which the pod's address answers."""
    neighbours = json.loads(cluster.room.call("ip", "-json", "neigh", "show", pod["status"]["podIP"], "dev", BRIDGE))
    (hardware,) = {one["lladdr"] for one in neighbours if "lladdr" in one}
    entries = json.loads(cluster.room.call("bridge", "-json", "fdb", "show", "br", BRIDGE))
    (port,) = {one["ifname"] for one in entries if one["mac"] == hardware and "permanent" not in one.get("flags", ())}
    return str(port)


def received_bytes(cluster: Cluster, port: str) -> int:
    """What has gone through a port into its pod."""
    return int(cluster.room.call("cat", "/proc/net/dev").partition(f"{port}:")[2].split()[8])


@contextlib.contextmanager
def shaped(cluster: Cluster, port: str, rate: str) -> Iterator[None]:
    """Let no more than `rate` (as tc writes it) into the pod behind a port."""
    bucket = ("root", "tbf", "rate", rate, "burst", "32kb", "latency", "400ms")
    cluster.room.call("tc", "qdisc", "replace", "dev", port, *bucket)
    try:
        yield
    finally:
        cluster.room.call("tc", "qdisc", "delete", "dev", port, "root")
