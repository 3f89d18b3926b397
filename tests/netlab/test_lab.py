"""The lab itself: links that carry what they are told to, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.controller.waiting import eventually
from tests.netlab import kernel, namespaces
from tests.netlab.kernel import NetlabError
from tests.netlab.lab import Lab
from thinwire.controller.local.processes import Process

pytestmark = pytest.mark.netlab

_PAYLOAD_BYTES = 2_000_000
_BITS_PER_SECOND = 16_000_000

_RECEIVE = """
import socket
door = socket.create_server(("0.0.0.0", 4000))
print("ready", flush=True)
peer, _ = door.accept()
taken = 0
while piece := peer.recv(65536):
    taken += len(piece)
print(taken, flush=True)
"""
_SEND = """
import socket, sys
with socket.create_connection((sys.argv[1], 4000), timeout=100) as peer:
    peer.sendall(bytes(int(sys.argv[2])))
"""
_BUILD_AND_STAY = """
import subprocess, sys, time
from tests.netlab.lab import Lab
lab = Lab(2)
lab.__enter__()
inside = subprocess.Popen(["ip", "netns", "exec", lab.namespace(1), "sleep", "600"])
print(inside.pid, flush=True)
time.sleep(600)
"""


def test_bytes_take_the_shaped_link_and_no_faster_than_its_rate():
    with Lab(2, _BITS_PER_SECOND) as lab:
        inside = [["ip", "netns", "exec", lab.namespace(node), sys.executable, "-c"] for node in range(2)]
        receiver = subprocess.Popen([*inside[1], _RECEIVE], stdout=subprocess.PIPE, text=True)
        try:
            assert receiver.stdout is not None
            assert receiver.stdout.readline() == "ready\n"
            before = [lab.counters(node) for node in range(2)]
            subprocess.run([*inside[0], _SEND, lab.address(1), str(_PAYLOAD_BYTES)], check=True, timeout=120)
            assert receiver.communicate(timeout=120)[0] == f"{_PAYLOAD_BYTES}\n"
        finally:
            receiver.kill()
            receiver.wait()
        passed = [lab.counters(node).since(earlier) for node, earlier in enumerate(before)]
    assert _PAYLOAD_BYTES < passed[0].sent_bytes < 1.1 * _PAYLOAD_BYTES
    assert _PAYLOAD_BYTES < passed[1].received_bytes < 1.1 * _PAYLOAD_BYTES


def test_every_end_of_a_link_is_shaped_anew_in_the_middle():
    with Lab(2, _BITS_PER_SECOND) as lab:
        lab.shape(1, _BITS_PER_SECOND // 10)
        ends = [(lab.namespace(1), "eth0"), (lab.switch_namespace, "node1")]
        for namespace, device in ends:
            shown = kernel.call("tc", "-n", namespace, "qdisc", "show", "dev", device)
            assert "tbf" in shown
            assert "rate 1600Kbit" in shown


def test_nothing_is_left_of_a_lab_that_was_closed():
    with Lab(2) as lab:
        names = [lab.namespace(0), lab.namespace(1)]
        assert all(Path("/run/netns", name).exists() for name in names)
    assert not any(Path("/run/netns", name).exists() for name in names)


def test_the_next_lab_sweeps_what_a_killed_owner_left_with_all_that_runs_in_it():
    owner = subprocess.Popen([sys.executable, "-c", _BUILD_AND_STAY], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    inside = Process.of(int(owner.stdout.readline()))
    dead = Process.of(owner.pid)
    assert len(namespaces.owned(dead, 0)) == 3
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert inside.alive
    with Lab(1):
        assert namespaces.owned(dead, 0) == []
    eventually(lambda: not inside.alive)


def test_a_living_owner_keeps_its_lab():
    with Lab(1) as lab:
        namespaces.sweep()
        assert Path("/run/netns", lab.namespace(0)).exists()


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NetlabError, match="expected root, got user 1000; run it with sudo"):
        kernel.require()


def test_without_its_programs_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NetlabError, match="missing ip, tc; install iproute2"):
        kernel.require()


@pytest.mark.parametrize(("nodes", "rate"), [(0, 0), (65, 0), (1, 10), (1, -1)])
def test_what_cannot_be_built_is_refused_and_leaves_nothing(nodes: int, rate: int):
    with pytest.raises(NetlabError, match="expected"), Lab(nodes, rate):
        pass
    me = Process.of(os.getpid())
    assert [name for name in Path("/run/netns").iterdir() if name.name.startswith(f"thinwire-{me.pid}-")] == []
