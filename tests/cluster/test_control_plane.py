"""The test cluster itself: it leaves nothing behind, and says what is missing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster import binaries
from tests.cluster.binaries import ToolMissingError, found, made
from tests.cluster.control_plane import control_plane
from tests.cluster.remains import living
from tests.controller.waiting import eventually

STARTED = """
import os, sys, time
from tests.cluster.binaries import found
from tests.cluster.control_plane import control_plane
with control_plane(found()) as plane:
    print(plane.certificate, flush=True)
    time.sleep(600)
"""


@pytest.mark.cluster
def test_a_killed_run_takes_its_cluster_along_and_the_next_run_sweeps_its_folder() -> None:
    with subprocess.Popen([sys.executable, "-c", STARTED], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        folder = Path(run.stdout.readline().strip()).parents[2]
        assert len(living(folder)) == 2
        run.send_signal(signal.SIGKILL)
    eventually(lambda: not living(folder))
    assert folder.exists()
    with control_plane(found()) as plane:
        assert not folder.exists()
        assert plane.certificate.exists()
    assert not plane.certificate.parents[2].exists()
    eventually(lambda: not living(plane.certificate.parents[2]))


def test_a_machine_without_go_is_told_which_go_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(program(tmp_path / "etcd").parent))
    with pytest.raises(ToolMissingError, match=r"expected Go 1\.24 or newer .* got no `go` on PATH; install it"):
        made()


def test_an_old_go_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    program(tmp_path / "etcd")
    program(tmp_path / "go", "echo go1.19.8")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissingError, match=r"expected Go 1\.24 or newer .* got go1\.19\.8; install it"):
        made()


def test_a_folder_of_assets_is_used_if_it_is_whole_and_refused_if_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    program(tmp_path / binaries.ETCD)
    with pytest.raises(ToolMissingError, match="got a folder without one of them; complete it or unset the variable"):
        made()
    program(tmp_path / binaries.API_SERVER)
    assert made() == found() == binaries.Binaries(tmp_path)


def test_programs_that_nobody_made_are_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ToolMissingError, match="run `make cluster-tools`"):
        found()


def program(path: Path, body: str = "true") -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    assert os.access(path, os.X_OK)
    return path
