"""A switch and some nodes on this machine: network namespaces joined by veth pairs, each link shaped in both ways.

Node N has eth0 with 10.77.0.(N + 1); its other end, nodeN, is a port of the bridge in the hub's namespace. A token
bucket at each end lets through what leaves that end, so a link has the same rate up and down. The switch has an address
of its own, where a controller can listen.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from tests.netlab.kernel import NetlabError, call, require
from tests.netlab.namespaces import name_of, owned, remove, sweep
from thinwire.controller.local.processes import Process

INTERFACE = "eth0"
SWITCH_ADDRESS = "10.77.0.254"
MOST_NODES = 64

_numbers = itertools.count()
_BURST_SECONDS = 0.0002
_SMALLEST_BURST_BYTES = 1_600
"""One Ethernet frame: a deeper bucket would let small exchanges through faster than the link."""
_QUEUE_BYTES = 8 * 2**20
_SLOWEST_BITS_PER_SECOND = 1_000
_UNCOUNTED_SHARE = 0.98


@dataclass(frozen=True, slots=True)
class Counters:
    """Bytes that a node's interface has sent and received, with Ethernet, IP and TCP headers."""

    sent_bytes: int
    received_bytes: int

    def since(self, before: Counters) -> Counters:
        """Return what has passed since `before`."""
        return Counters(self.sent_bytes - before.sent_bytes, self.received_bytes - before.received_bytes)


class Lab:
    """A context manager: the namespaces are there inside of it, and gone with all that runs in them after it."""

    def __init__(self, nodes: int, bits_per_second: int = 0) -> None:
        """Plan `nodes` nodes whose links let `bits_per_second` through; 0 for no limit.

        Raises:
            NetlabError: the number or the rate cannot be.
        """
        if not 1 <= nodes <= MOST_NODES:
            raise NetlabError(f"netlab: expected 1 to {MOST_NODES} nodes, got {nodes}; name another number")
        self.nodes = nodes
        self._rate = bits_per_second
        self._owner = Process.of(os.getpid())
        self._number = next(_numbers)

    def __enter__(self) -> Lab:
        require()
        sweep()
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove whatever there is of this lab."""
        for name in owned(self._owner, self._number):
            remove(name)

    def namespace(self, node: int) -> str:
        """Return the name of a node's namespace, for `ip netns exec`."""
        return name_of(self._owner, self._number, f"node{self._checked(node)}")

    @property
    def switch_namespace(self) -> str:
        """Return the name of the switch's namespace."""
        return self._hub

    def address(self, node: int) -> str:
        """Return a node's IPv4 address."""
        return f"10.77.0.{self._checked(node) + 1}"

    def shape(self, node: int, bits_per_second: int) -> None:
        """Let a node's link carry so much from now on, each way; 0 for no limit."""
        self._shape_end(self.namespace(node), INTERFACE, bits_per_second)
        self._shape_end(self._hub, f"node{node}", bits_per_second)

    def shape_all(self, bits_per_second: int) -> None:
        """Shape every link alike."""
        for node in range(self.nodes):
            self.shape(node, bits_per_second)

    def cut(self, node: int) -> None:
        """Take a node's cable out of the switch."""
        call("ip", "-n", self._hub, "link", "set", f"node{self._checked(node)}", "down")

    def mend(self, node: int) -> None:
        """Put it in again."""
        call("ip", "-n", self._hub, "link", "set", f"node{self._checked(node)}", "up")

    def counters(self, node: int) -> Counters:
        """Return what has passed a node's interface so far."""
        said = call("ip", "-n", self.namespace(node), "-json", "-stats", "link", "show", "dev", INTERFACE)
        stats = json.loads(said)[0]["stats64"]
        return Counters(stats["tx"]["bytes"], stats["rx"]["bytes"])

    def require_passed(self, before: Sequence[Counters], sent_bytes: int, what: str) -> int:
        """Return the bytes that the first nodes' interfaces, one for each of `before`, have sent since.

        Raises:
            NetlabError: they are not those that `what` says it sent.
        """
        passed = sum(self.counters(node).since(earlier).sent_bytes for node, earlier in enumerate(before))
        if passed < _UNCOUNTED_SHARE * sent_bytes:
            raise NetlabError(
                f"netlab: expected the {sent_bytes} bytes of {what} on the shaped links, their counters saw {passed}; "
                "the process group used another interface"
            )
        return passed

    @property
    def _hub(self) -> str:
        return name_of(self._owner, self._number, "hub")

    def _checked(self, node: int) -> int:
        if not 0 <= node < self.nodes:
            raise NetlabError(f"netlab: expected a node from 0 to {self.nodes - 1}, got {node}; name another")
        return node

    def _build(self) -> None:
        call("ip", "netns", "add", self._hub)
        call("ip", "-n", self._hub, "link", "add", "switch", "type", "bridge")
        call("ip", "-n", self._hub, "address", "add", f"{SWITCH_ADDRESS}/24", "dev", "switch")
        call("ip", "-n", self._hub, "link", "set", "switch", "up")
        for node in range(self.nodes):
            self._add(node)
        self.shape_all(self._rate)

    def _add(self, node: int) -> None:
        inside, port = self.namespace(node), f"node{node}"
        call("ip", "netns", "add", inside)
        peer = ("peer", "name", INTERFACE, "netns", inside)
        call("ip", "-n", self._hub, "link", "add", port, "type", "veth", *peer)
        call("ip", "-n", self._hub, "link", "set", port, "master", "switch", "up")
        call("ip", "-n", inside, "address", "add", f"{self.address(node)}/24", "dev", INTERFACE)
        call("ip", "-n", inside, "link", "set", "lo", "up")
        call("ip", "-n", inside, "link", "set", INTERFACE, "up")

    def _shape_end(self, namespace: str, device: str, bits_per_second: int) -> None:
        if bits_per_second == 0:
            call("tc", "-n", namespace, "qdisc", "replace", "dev", device, "root", "pfifo", "limit", "10000")
            return
        if bits_per_second < _SLOWEST_BITS_PER_SECOND:
            raise NetlabError(
                f"netlab: expected {_SLOWEST_BITS_PER_SECOND} bits per second or more, got {bits_per_second}; "
                "name 0 for no limit"
            )
        burst_bytes = max(_SMALLEST_BURST_BYTES, round(bits_per_second / 8 * _BURST_SECONDS))
        bucket = ("tbf", "rate", f"{bits_per_second}bit", "burst", str(burst_bytes), "limit", str(_QUEUE_BYTES))
        call("tc", "-n", namespace, "qdisc", "replace", "dev", device, "root", *bucket)
