"""Network namespaces that carry their owner's process in their names, and the sweep of those whose owner is dead.

Everything of a lab lives in its namespaces, bridge included: when they go, interfaces and queues go with them.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path

from tests.netlab.kernel import NetlabError, call
from thinwire.controller.local.processes import Process

_PREFIX = "thinwire"
_FOLDER = Path("/run/netns")
_ENDS_SECONDS = 30.0
_CLONE_NEWNET = 0x40000000


def name_of(owner: Process, lab: int, part: str) -> str:
    """Return the namespace of one part of a lab of `owner`."""
    return f"{_PREFIX}-{owner.pid}-{owner.start_ticks}-{lab}-{part}"


def owned(owner: Process, lab: int) -> list[str]:
    """Return the namespaces of one lab."""
    return [name for name in _all() if name.startswith(name_of(owner, lab, ""))]


def sweep() -> list[str]:
    """Remove the namespaces of dead owners, with the processes in them; return their names."""
    swept = []
    for name in _all():
        owner = _owner(name)
        if owner is not None and not owner.alive:
            remove(name)
            swept.append(name)
    return swept


def enter(name: str) -> None:
    """Move this thread, and those that it starts from now on, into a namespace; raises NetlabError."""
    libc = ctypes.CDLL(None, use_errno=True)
    with (_FOLDER / name).open() as namespace:
        if libc.setns(namespace.fileno(), _CLONE_NEWNET):
            said = os.strerror(ctypes.get_errno())
            raise NetlabError(f"netlab: expected to enter {name}, but the kernel said: {said}; run it as root")


def remove(name: str) -> None:
    """Kill what runs in a namespace of a lab, then remove it."""
    deadline = time.monotonic() + _ENDS_SECONDS
    while pids := _pids(name):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if time.monotonic() > deadline:
            raise NetlabError(f"netlab: process {pids[0]} in {name} does not end; end it by hand")
        time.sleep(0.01)
    if (_FOLDER / name).exists():
        try:
            call("ip", "netns", "delete", name)
        except NetlabError:
            if (_FOLDER / name).exists():  # else another sweep was faster
                raise


def _pids(name: str) -> list[int]:
    try:
        return [int(pid) for pid in call("ip", "netns", "pids", name).split()]
    except NetlabError:
        if (_FOLDER / name).exists():
            raise
        return []


def _all() -> list[str]:
    return sorted(path.name for path in _FOLDER.glob(f"{_PREFIX}-*")) if _FOLDER.exists() else []


def _owner(name: str) -> Process | None:
    parts = name.split("-")
    if len(parts) != 5 or not (parts[1].isdigit() and parts[2].isdigit()):
        return None
    return Process(int(parts[1]), int(parts[2]))
