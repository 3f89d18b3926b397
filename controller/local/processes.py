"""Processes of this machine, named so that a number used again is never taken for the one that is meant (Linux)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_STATE, _PARENT, _START_TICKS = 0, 1, 19


@dataclass(frozen=True, slots=True)
class Process:
    """A process number together with its start time in clock ticks since boot."""

    pid: int
    start_ticks: int

    @classmethod
    def of(cls, pid: int) -> Process:
        """The process that has this number now; raises ProcessLookupError if none has, or if it is a zombie."""
        fields = _stat(pid)
        if fields[_STATE] == "Z":
            raise ProcessLookupError(pid)
        return cls(pid, int(fields[_START_TICKS]))

    @classmethod
    def parse(cls, text: str) -> Process:
        """Read what `str` wrote; raises ValueError."""
        pid, ticks = text.strip().split(":")
        return cls(int(pid), int(ticks))

    def __str__(self) -> str:
        return f"{self.pid}:{self.start_ticks}"

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        try:
            return Process.of(self.pid) == self
        except ProcessLookupError:
            return False

    def send(self, number: signal.Signals) -> None:
        """Signal it, if it is still there."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def descendants(pid: int) -> list[Process]:
    """Every process below `pid`, deepest first."""
    children: dict[int, list[int]] = {}
    for other in _numbers():
        with contextlib.suppress(ProcessLookupError):
            children.setdefault(int(_stat(other)[_PARENT]), []).append(other)
    found: list[Process] = []

    def walk(parent: int) -> None:
        for child in children.get(parent, []):
            walk(child)
            with contextlib.suppress(ProcessLookupError):
                found.append(Process.of(child))

    walk(pid)
    return found


def with_environment(name: str, value: str) -> list[Process]:
    """Every process of this user whose environment says `name=value`."""
    wanted = f"{name}={value}".encode()
    found = []
    for pid in _numbers():
        with contextlib.suppress(OSError):
            if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.append(Process.of(pid))
    return found


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies, so that none gets away."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _numbers() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _stat(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ProcessLookupError(pid) from error
    return text.rpartition(")")[2].split()
