"""The node's room: network, mount and process namespaces of its own, so that nothing of a cluster can outlive it.

Bridge, veth pairs, iptables rules, mounts, shims and containers all live inside. The room's first process dies with the
test run (also when that is killed), and the kernel then ends every other process in it and drops the namespaces. One
veth pair joins the room to the machine: that is how `kubectl` reaches the API server.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.harness.programs import DIES_WITH_US

PREFIX_BITS = 30
_INSIDE = "uplink"
_STARTS_SECONDS = 20.0
# Ended children (shims leave them) are reaped by the kernel, since nobody asks for them.
_FIRST_PROCESS = "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\nwhile True: signal.pause()"


class NodeError(RuntimeError):
    """The node cannot be had; the message says what to do."""


@dataclass(frozen=True)
class Place:
    """What a cluster takes up on this machine; one cluster at a time can have a place.

    `network` is three numbers out of 198.18.0.0/15, which is set aside for benchmarks: no real network has it.
    """

    name: str
    network: str

    @property
    def machine_address(self) -> str:
        return f"{self.network}.1"

    @property
    def node_address(self) -> str:
        return f"{self.network}.2"

    @property
    def link(self) -> str:
        """The machine's end of the veth pair into the room."""
        return f"tw-{self.name}"

    @property
    def cgroup(self) -> str:
        return f"thinwire-{self.name}"


USUAL, SPARE = Place("node", "198.18.7"), Place("spare", "198.18.8")
"""The cluster of the tests and of `make cluster`; and one beside it, for tests that end it badly."""


@dataclass(frozen=True)
class Room:
    """The living namespaces; `first` is the process id, seen from the machine, of their first process."""

    first: int

    def command(self, *command: str | os.PathLike[str]) -> list[str]:
        """`command`, as it has to be started from outside to run inside."""
        return ["nsenter", "--target", str(self.first), "--net", "--mount", "--pid", "--", *map(os.fspath, command)]

    def call(self, *command: str | os.PathLike[str], timeout_seconds: float = 120.0) -> str:
        """Run a command inside and return what it printed; raises NodeError with its own words."""
        return _call(self.command(*command), timeout_seconds)


@contextlib.contextmanager
def room(log: Path, place: Place) -> Iterator[Room]:
    """Make the namespaces, join them to the machine, and end everything inside with the body."""
    if os.geteuid() != 0:
        raise NodeError(f"expected root to make a node's namespaces, got user {os.geteuid()}; run it with sudo")
    with log.open("wb") as said:
        outer = subprocess.Popen(
            [
                *DIES_WITH_US,
                *("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
                *("--propagation", "private", "--", sys.executable, "-c", _FIRST_PROCESS),
            ],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
        try:
            made = Room(_first_of(outer, log))
            _join(made, place)
            yield made
        finally:
            _end(outer)


def sweep(place: Place) -> None:
    """Remove the machine's end of a room that is gone; the kernel takes a moment to do it itself."""
    if Path(f"/sys/class/net/{place.link}").exists():
        subprocess.run(["ip", "link", "delete", place.link], capture_output=True, check=False)


def _first_of(outer: subprocess.Popen[bytes], log: Path) -> int:
    deadline = time.monotonic() + _STARTS_SECONDS
    while outer.poll() is None and time.monotonic() < deadline:
        for child in psutil.Process(outer.pid).children():
            if "python" in child.name() and Path(f"/proc/{child.pid}/ns/pid").exists():
                return int(child.pid)
        time.sleep(0.01)
    raise NodeError(f"expected namespaces for the node, got none: {log.read_text(errors='replace').strip()}")


def _join(made: Room, place: Place) -> None:
    sweep(place)
    inside = ["peer", "name", _INSIDE, "netns", str(made.first)]
    _call(["ip", "link", "add", "name", place.link, "type", "veth", *inside])
    _call(["ip", "address", "add", f"{place.machine_address}/{PREFIX_BITS}", "dev", place.link])
    _call(["ip", "link", "set", place.link, "up"])
    made.call("ip", "link", "set", "lo", "up")
    made.call("ip", "address", "add", f"{place.node_address}/{PREFIX_BITS}", "dev", _INSIDE)
    made.call("ip", "link", "set", _INSIDE, "up")
    # Nothing forwards for the node; but a service's address needs a route before iptables turns it into a pod's.
    made.call("ip", "route", "add", "default", "via", place.machine_address)
    made.call("sysctl", "-qw", "net.ipv4.ip_forward=1")


def _end(outer: subprocess.Popen[bytes]) -> None:
    for child in psutil.Process(outer.pid).children() if outer.poll() is None else ():
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    outer.kill()
    outer.wait()


def _call(command: list[str], timeout_seconds: float = 60.0) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_seconds, check=False)
    if done.returncode:
        said = " ".join(done.stderr.split()) or "nothing"
        raise NodeError(f"`{' '.join(command)}` ended with {done.returncode} and said: {said}")
    return done.stdout
