from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.controller.cli.supervised import Running
from tests.controller.waiting import eventually
from thinwire.controller.cli.errors import Refused
from thinwire.controller.local import files, registry
from thinwire.controller.local.files import ControllerFile, StateFolder
from thinwire.controller.local.launcher import GUARDED_VARIABLE
from thinwire.controller.local.processes import Process, with_environment

pytestmark = pytest.mark.torchrun


@pytest.fixture(autouse=True)
def own_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    started = Running(tmp_path)
    yield started
    started.stop.signal = signal.SIGTERM
    eventually(lambda: started.outcome is not None)
    assert started.left() == []


def test_a_running_job_is_in_the_registry_and_leaves_nothing_behind_when_it_ends(running: Running):
    running.seen_running()
    assert [entry.name for entry in registry.running()] == ["fake"]
    running.finish()
    assert running.ended().exit_code == 0
    assert running.left() == []
    assert not running.controller().alive
    assert registry.running() == []


def test_a_controller_that_is_killed_is_replaced_at_its_address_and_the_ranks_go_on(running: Running):
    running.seen_running()
    rank, killed = running.rank(), running.controller()
    before = files.read(running.state.controller, ControllerFile)
    killed.send(signal.SIGKILL)
    eventually(lambda: running.controller() != killed)
    after = files.read(running.state.controller, ControllerFile)
    assert before is not None
    assert after is not None
    assert after.address == before.address
    steps = running.steps()
    eventually(lambda: running.steps() > steps + 5)
    assert running.rank() == rank
    assert running.state.attempts() == [1]
    eventually(lambda: running.display.job is not None and running.display.job.step > 0)
    running.finish()
    assert running.ended().exit_code == 0
    assert any("the controller ended (-9); another has taken over" in note for note in running.display.notes)


def test_ranks_that_end_while_no_controller_lives_have_ended(running: Running):
    running.seen_running()
    running.controller().send(signal.SIGSTOP)
    running.finish()
    eventually(running.state.exit(1).exists)
    running.controller().send(signal.SIGKILL)
    assert running.ended().exit_code == 0


def test_a_controller_that_hangs_slows_nothing_and_is_named(running: Running):
    running.seen_running()
    controller = running.controller()
    controller.send(signal.SIGSTOP)
    steps = running.steps()
    eventually(lambda: any("has not answered for" in note for note in running.display.notes))
    assert running.steps() > steps + 20
    controller.send(signal.SIGCONT)
    running.finish()
    assert running.ended().exit_code == 0
    assert running.controller() == controller


def test_a_wish_to_end_ends_the_ranks(running: Running):
    running.seen_running()
    rank = running.rank()
    running.stop.signal = signal.SIGINT
    outcome = running.ended()
    assert (outcome.exit_code, outcome.interrupted) == (130, True)
    assert not rank.alive
    assert not running.controller().alive


def test_a_wish_to_end_is_heard_though_the_controller_hangs(running: Running):
    running.seen_running()
    rank = running.rank()
    running.controller().send(signal.SIGSTOP)
    running.stop.signal = signal.SIGINT
    assert running.ended().exit_code == 130
    assert not rank.alive


def test_a_rank_that_fails_ends_the_job_with_its_last_words(running: Running):
    running.seen_running()
    running.finish(1)
    outcome = running.ended()
    assert outcome.exit_code == 1
    assert outcome.message == (
        "attempt 1 failed and none is left (maxRestarts 0): rank 0 ended with exit code 1: RuntimeError: the fake broke"
    )


def test_bad_input_found_by_a_rank_ends_with_two_and_its_sentence(running: Running):
    running.seen_running()
    running.finish(2)
    outcome = running.ended()
    assert (outcome.exit_code, outcome.message) == (2, "no")


def test_dead_ranks_are_started_again(tmp_path: Path):
    running = Running(tmp_path, max_restarts=1)
    running.seen_running()
    first = running.rank()
    first.send(signal.SIGKILL)
    assert running.rank_after(first).alive
    assert running.state.attempts() == [1, 2]
    running.finish()
    outcome = running.ended()
    assert outcome.exit_code == 0
    assert outcome.job is not None
    assert outcome.job.restarts == 1


def test_a_killed_guard_counts_as_a_failure_and_its_ranks_are_gone_before_the_next_start(tmp_path: Path):
    running = Running(tmp_path, max_restarts=1)
    running.seen_running()
    first = running.rank()
    guard = Process.parse(running.state.guard(1).read_text())
    guard.send(signal.SIGKILL)
    eventually(lambda: running.state.attempts() == [1, 2])
    # What the kernel is still taking apart has no environment left, and runs no more.
    assert first not in with_environment(GUARDED_VARIABLE, str(running.state.root))
    running.rank_after(first)
    running.finish()
    assert running.ended().exit_code == 0


def test_the_deadline_ends_a_job(tmp_path: Path):
    running = Running(tmp_path, deadline=3)
    outcome = running.ended()
    assert outcome.exit_code == 1
    assert outcome.message == "activeDeadlineSeconds of 3 have passed; allow more or ask for less"
    assert running.left() == []


def test_a_taken_port_is_refused_in_a_sentence(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        running = Running(tmp_path, port=port)
        eventually(lambda: running.outcome is not None)
    assert isinstance(running.outcome, Refused)
    assert running.outcome.message == (
        f"port {port} of 127.0.0.1 is taken or not allowed; choose another, or leave it to thinwire"
    )


def test_when_the_whole_command_is_killed_nothing_of_it_stays_and_the_next_call_starts_anew(tmp_path: Path):
    output = tmp_path / "out"
    command = [sys.executable, "-m", "tests.controller.cli.supervised", str(output), f"job:{tmp_path}"]
    front = subprocess.Popen(command, env=dict(os.environ))
    eventually((tmp_path / "steps").exists)
    controller = files.read(StateFolder(output).controller, ControllerFile)
    assert controller is not None
    front.kill()
    front.wait()
    eventually(lambda: not with_environment(GUARDED_VARIABLE, str(StateFolder(output).root)))
    eventually(lambda: not Process.parse(controller.process).alive)
    (tmp_path / "pid").unlink()
    again = Running(tmp_path)
    again.seen_running()
    assert again.state.attempts() == [1, 2]
    again.finish()
    outcome = again.ended()
    assert outcome.exit_code == 0
    assert outcome.job is not None
    assert outcome.job.restarts == 0
