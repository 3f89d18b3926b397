"""The node's programs: started inside its room, stopped as a fault would stop them, started again as they were."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from pathlib import Path

import psutil

from tests.cluster.node.room import NodeError, Room
from tests.harness.programs import DIES_WITH_US

_STOP_SECONDS = 60.0


class Program:
    """One program of the node. `log` holds what it said, over all of its lives."""

    def __init__(self, room: Room, name: str, command: list[str], log: Path) -> None:
        self.room, self.name, self.command, self.log = room, name, command, log
        self._outer: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._outer is not None and self._outer.poll() is None

    def start(self) -> None:
        assert not self.running, f"{self.name} runs already"
        with self.log.open("ab") as log:
            # nsenter stays as the parent: it and its child die together, whichever ends first.
            self._outer = subprocess.Popen(
                [*self.room.command(*DIES_WITH_US), *self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self) -> None:
        """Ask it to end, and wait until it has; a program that does not listen is killed."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def check(self) -> None:
        """Raise NodeError with the end of its log if it has ended by itself."""
        if self._outer is not None and self._outer.poll() is not None:
            raise NodeError(f"{self.name} has ended:\n{self.last_words()}")

    def last_words(self, lines: int = 15) -> str:
        if not self.log.exists():
            return "(no log)"
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def _end(self, number: signal.Signals) -> None:
        outer, self._outer = self._outer, None
        if outer is None or outer.poll() is not None:
            return
        deadline = time.monotonic() + _STOP_SECONDS
        while outer.poll() is None:
            for child in _children(outer.pid):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.send_signal(number if time.monotonic() < deadline else signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                outer.wait(1.0)


def _children(pid: int) -> list[psutil.Process]:
    try:
        return list(psutil.Process(pid).children())
    except psutil.NoSuchProcess:
        return []
