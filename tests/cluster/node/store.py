"""containerd's root, kept from run to run for the images in it; the containers of an earlier run are removed."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from tests.cluster.binaries import cache_base
from tests.cluster.node.programs import Program
from tests.cluster.node.room import NodeError, Room

_STARTS_SECONDS = 60.0


def root() -> Path:
    """The folder, in the cache of the test cluster."""
    folder = cache_base() / "containerd"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def ctr(socket: Path) -> list[str | os.PathLike[str]]:
    """containerd's own client, where the kubelet's images and containers are."""
    return ["ctr", "--address", socket, "--namespace", "k8s.io"]


def clear(room: Room, containerd: Program, socket: Path) -> None:
    """Have containerd forget the containers of earlier runs; it is started again if there were any."""
    _await(room, containerd, socket)
    left = room.call(*ctr(socket), "containers", "ls", "-q").split()
    if not left:
        return
    room.call(*ctr(socket), "containers", "rm", *left)
    containerd.stop()
    for kind in ("containers", "sandboxes"):
        shutil.rmtree(root() / "io.containerd.grpc.v1.cri" / kind, ignore_errors=True)
    containerd.start()
    _await(room, containerd, socket)


def _await(room: Room, containerd: Program, socket: Path) -> None:
    deadline = time.monotonic() + _STARTS_SECONDS
    while True:
        containerd.check()
        try:
            room.call(*ctr(socket), "version")
            return
        except NodeError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
