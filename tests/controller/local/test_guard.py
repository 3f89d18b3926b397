from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.controller.waiting import eventually
from thinwire.controller.local import files
from thinwire.controller.local.files import ExitFile
from thinwire.controller.local.processes import Process

GANG = str(Path(__file__).with_name("fake_gang.py"))


@pytest.fixture
def owner() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-S", "-c", "import signal; signal.pause()"])
    yield process
    process.kill()
    process.wait()


def start_guard(attempt: Path, owner: Process, *gang: str) -> subprocess.Popen[bytes]:
    attempt.mkdir(exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "thinwire.controller.local.guard",
        "--owner",
        str(owner),
        "--attempt",
        str(attempt),
    ]
    return subprocess.Popen([*command, "--", sys.executable, GANG, *gang])


def ended(attempt: Path) -> ExitFile:
    found = eventually(lambda: files.read(attempt / "exit.json", ExitFile))
    assert found is not None
    return found


def rank_of(path: Path) -> Process:
    eventually(path.exists)
    return Process.of(int(path.read_text()))


@pytest.mark.parametrize("code", [0, 1, 7])
def test_the_exit_code_of_a_gang_that_ends_by_itself_is_kept(tmp_path: Path, owner: subprocess.Popen[bytes], code: int):
    guard = start_guard(tmp_path / "attempt-1", Process.of(owner.pid), f"exit:{code}")
    assert ended(tmp_path / "attempt-1").exit_code == code
    assert guard.wait(30) == 0


def test_the_first_failed_ranks_own_exit_code_counts_and_not_torchruns(tmp_path: Path, owner: subprocess.Popen[bytes]):
    start_guard(tmp_path / "attempt-1", Process.of(owner.pid), "rank-exit:2")
    kept = ended(tmp_path / "attempt-1")
    assert (kept.returncode, kept.exit_code, kept.rank) == (1, 2, 1)


def test_every_rank_ends_when_the_owner_is_killed(tmp_path: Path, owner: subprocess.Popen[bytes]):
    start_guard(tmp_path / "attempt-1", Process.of(owner.pid), f"tree:{tmp_path / 'rank'}")
    rank = rank_of(tmp_path / "rank")
    owner.kill()
    owner.wait()
    ended(tmp_path / "attempt-1")
    assert not rank.alive


def test_every_rank_ends_when_the_guard_is_told_to_stop(tmp_path: Path, owner: subprocess.Popen[bytes]):
    guard = start_guard(tmp_path / "attempt-1", Process.of(owner.pid), f"tree:{tmp_path / 'rank'}")
    rank = rank_of(tmp_path / "rank")
    guard.send_signal(signal.SIGTERM)
    assert guard.wait(30) == 0
    assert not rank.alive
    assert ended(tmp_path / "attempt-1").exit_code == 143


def test_torchrun_dies_with_a_guard_that_is_killed(tmp_path: Path, owner: subprocess.Popen[bytes]):
    guard = start_guard(tmp_path / "attempt-1", Process.of(owner.pid), f"wait:{tmp_path / 'rank'}")
    torchrun = rank_of(tmp_path / "rank")
    guard.kill()
    guard.wait()
    eventually(lambda: not torchrun.alive)


def test_an_owner_that_is_gone_already_starts_nothing(tmp_path: Path, owner: subprocess.Popen[bytes]):
    gone = Process(owner.pid, Process.of(owner.pid).start_ticks + 1)
    start_guard(tmp_path / "attempt-1", gone, f"wait:{tmp_path / 'rank'}")
    assert ended(tmp_path / "attempt-1").exit_code == -signal.SIGTERM
    assert not (tmp_path / "rank").exists()


def test_a_second_guard_of_an_attempt_leaves_it_alone(tmp_path: Path, owner: subprocess.Popen[bytes]):
    first = start_guard(tmp_path / "attempt-1", Process.of(owner.pid), f"tree:{tmp_path / 'rank'}")
    rank = rank_of(tmp_path / "rank")
    second = start_guard(tmp_path / "attempt-1", Process.of(owner.pid), "exit:0")
    assert second.wait(30) == 1
    assert rank.alive
    assert not (tmp_path / "attempt-1/exit.json").exists()
    first.send_signal(signal.SIGTERM)
    first.wait(30)


def test_a_process_is_not_taken_for_another_that_got_its_number():
    me = Process.of(os.getpid())
    assert me.alive
    assert Process.parse(str(me)) == me
    assert not Process(me.pid, me.start_ticks - 1).alive
