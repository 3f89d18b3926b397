"""The node's containerd: its root is kept from run to run for the images in it, and cleared of earlier containers."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.cluster.node.programs import Program
from tests.cluster.node.room import NodeError, Room

_STARTS_SECONDS = 60.0


@dataclass(frozen=True)
class Store:
    """A running containerd and its own client."""

    room: Room
    program: Program
    socket: Path
    root: Path

    def blob(self, digest: str) -> Path:
        """Where it keeps a blob, if it has it."""
        return self.root / "io.containerd.content.v1.content" / "blobs" / digest.replace(":", "/")

    def call(self, *arguments: str, timeout_seconds: float = 600.0) -> str:
        """What `ctr` prints, of the images and containers that the kubelet sees."""
        return self.room.call(*self._ctr, *arguments, timeout_seconds=timeout_seconds)

    def await_ready(self) -> None:
        """Wait until it answers; raises NodeError."""
        deadline = time.monotonic() + _STARTS_SECONDS
        while True:
            self.program.check()
            try:
                self.call("version")
                return
            except NodeError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def clear(self) -> None:
        """Have it forget the containers of earlier runs; it is started again if there were any."""
        self.await_ready()
        left = self.call("containers", "ls", "-q").split()
        if not left:
            return
        self.call("containers", "rm", *left)
        self.program.stop()
        for kind in ("containers", "sandboxes"):
            shutil.rmtree(self.root / "io.containerd.grpc.v1.cri" / kind, ignore_errors=True)
        self.program.start()
        self.await_ready()

    @contextlib.contextmanager
    def importing(self) -> Iterator[IO[bytes]]:
        """A stream for an image's archive; raises NodeError when it is not taken."""
        with tempfile.TemporaryFile() as said:
            command = self.room.command(*self._ctr, "images", "import", "-")
            taking = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=said, stderr=said)
            assert taking.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                yield taking.stdin
                taking.stdin.close()
            if taking.wait():
                said.seek(0)
                raise NodeError(f"containerd did not take the image: {said.read().decode(errors='replace').strip()}")

    @property
    def _ctr(self) -> list[str | os.PathLike[str]]:
        return ["ctr", "--address", self.socket, "--namespace", "k8s.io"]
