"""The cluster of one node: it runs pods, and leaves nothing behind however its run ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster import debian
from tests.cluster.go_build import ToolMissingError
from tests.cluster.node.cluster import cluster, prefix
from tests.cluster.node.room import SPARE
from tests.cluster.remains import living
from tests.controller.waiting import eventually

STARTED = """
import sys, time
from tests.cluster.node.cluster import cluster, prefix
from tests.cluster.node.room import SPARE
with cluster(SPARE) as running:
    print(running.files.folder, flush=True)
    time.sleep(600)
"""


def traces() -> list[Path]:
    """What a cluster takes up on the machine outside its namespaces."""
    return [*Path("/sys/class/net").glob(SPARE.link), *Path("/sys/fs/cgroup").glob(f"*/{SPARE.cgroup}")]


def mounted() -> list[str]:
    return [
        line for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines() if prefix(SPARE) in line
    ]


@pytest.mark.cluster
def test_a_killed_run_takes_its_whole_cluster_along_and_the_next_sweeps_the_rest() -> None:
    before = mounted()
    with subprocess.Popen([sys.executable, "-c", STARTED], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        folder = Path(run.stdout.readline().strip())
        assert len(living(folder)) >= 8
        assert any(path.name == SPARE.link for path in traces())
        run.send_signal(signal.SIGKILL)
    eventually(lambda: not living(folder))
    eventually(lambda: mounted() == before)
    with cluster(SPARE) as running:
        assert not folder.exists()
        assert "Ready" in running.kubectl("get", "nodes")
        assert all(program.running for program in running.programs.values())
    assert not running.files.folder.exists()
    eventually(lambda: not living(running.files.folder))  # Killed, but one that waits for the disk dies only after it.
    eventually(lambda: not traces())
    eventually(lambda: mounted() == before)


def test_a_machine_without_a_nodes_programs_is_told_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ToolMissingError, match=r"got none of the packages .*runc.*apt-get install buildah conntrack"):
        debian.require()


def test_nobody_but_root_is_asked_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(ToolMissingError, match="run `make cluster-tools` as root"):
        debian.install_missing()
