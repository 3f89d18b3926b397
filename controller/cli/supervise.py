"""The front of a local run: keeps a controller alive, shows what it says, and ends everything when told to.

The controller does the work and may die or hang at any time: the ranks do not notice, and a new one takes over from the
files of the state folder. Only this process's own end, or the user's wish, ends the ranks.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import grpc

from thinwire.controller.cli.display import Display
from thinwire.controller.cli.errors import Failed, Refused
from thinwire.controller.cli.progress import ENDED
from thinwire.controller.local import files
from thinwire.controller.local.files import ControllerFile, ExitFile, RunFile, StateFolder
from thinwire.controller.local.guard import GRACE_SECONDS
from thinwire.controller.local.launcher import GUARDED_VARIABLE
from thinwire.controller.local.logs import tail
from thinwire.controller.local.processes import Process, with_environment
from thinwire.proto.thinwire.v1alpha1 import status_pb2 as pb
from thinwire.proto.thinwire.v1alpha1.status_pb2_grpc import StatusServiceStub

POLL_SECONDS = 0.4
SILENT_SECONDS = 4.0
HUNG_SECONDS = 20.0

_ANSWER_SECONDS = 2.0
_START_SECONDS = 60.0
_END_SECONDS = 5.0
_GONE_SECONDS = GRACE_SECONDS + 7.0
_MOST_RESPAWNS = 5
_RESPAWN_WINDOW_SECONDS = 60.0
_BAD_INPUT = 2


class Stop:
    """Whether the user asked for the end, by which signal."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    @contextmanager
    def listening(self) -> Iterator[Stop]:
        """Take SIGINT and SIGTERM as wishes while the body runs."""
        before = {number: signal.signal(number, self._heard) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.signal = signal.Signals(number)


class _InterruptedError(Exception):
    """The user wanted the end while something was waited for."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended; `interrupted` has precedence over the job's own state."""

    job: pb.JobStatus | None
    exit_code: int
    message: str = ""
    interrupted: bool = False


class Supervisor:
    """Brings one RunFile to its end in one output folder. Hold the folder's lock while using it."""

    def __init__(self, output: Path, run: RunFile, port: int, display: Display, stop: Stop) -> None:
        self._state = StateFolder(output)
        self._run = run
        self._port = port
        self._display = display
        self._stop = stop
        self._controller: subprocess.Popen[bytes] | None = None
        self._channel: grpc.Channel | None = None
        self._job: pb.JobStatus | None = None
        self._answered_seconds = 0.0
        self._spawned_seconds: list[float] = []

    def run(self) -> Outcome:
        """Run until the job has ended or the user wants it to; nothing of it is left then. Raises Refused or Failed."""
        files.write(self._state.run, self._run)
        try:
            self._start_controller()
            while self._stop.signal is None:
                note = self._look()
                self._display.show(self._job, note)
                if self._job is not None and self._job.state in ENDED:
                    return self._outcome(self._job)
                time.sleep(POLL_SECONDS)
            return self._interrupted()
        except _InterruptedError:
            return self._interrupted()
        finally:
            self._end_controller()
            self._end_ranks()

    def _interrupted(self) -> Outcome:
        assert self._stop.signal is not None
        return Outcome(self._job, 128 + self._stop.signal, "interrupted", interrupted=True)

    def _outcome(self, job: pb.JobStatus) -> Outcome:
        if job.state == pb.JOB_STATE_SUCCEEDED:
            return Outcome(job, 0)
        last = max(self._state.attempts(), default=0)
        ended = files.read(self._state.exit(last), ExitFile)
        code = _BAD_INPUT if ended is not None and ended.exit_code == _BAD_INPUT else 1
        return Outcome(job, code, job.message)

    def _look(self) -> str:
        """Ask the controller, mend it if need be, and return what is to be said about it."""
        assert self._controller is not None
        if self._controller.poll() is not None:
            how = self._controller.returncode
            self._respawn()
            return f"the controller ended ({how}); another has taken over, the ranks go on"
        if self._ask():
            return ""
        silent = time.monotonic() - self._answered_seconds
        if silent > HUNG_SECONDS:
            self._controller.kill()
            self._respawn()
            return f"the controller hung for {silent:.0f} s; another has taken over, the ranks go on"
        if silent > SILENT_SECONDS:
            return f"the controller has not answered for {silent:.0f} s; the ranks go on at the last rate"
        return ""

    def _ask(self) -> bool:
        assert self._channel is not None
        asked = pb.GetJobRequest(namespace=self._run.namespace, name=self._run.name)
        try:
            self._job = StatusServiceStub(self._channel).GetJob(asked, timeout=_ANSWER_SECONDS).job
        except grpc.RpcError:
            return False
        self._answered_seconds = time.monotonic()
        return True

    def _start_controller(self) -> None:
        command = [sys.executable, "-m", "thinwire.controller", "local", "--output", str(self._state.output)]
        command += ["--owner", str(Process.of(os.getpid())), "--port", str(self._port)]
        log = self._state.root / "controller.log"
        said_before = log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            self._controller = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        self._spawned_seconds.append(time.monotonic())
        address = self._await_address(self._controller, log, said_before)
        self._port = int(address.rpartition(":")[2])
        if self._channel is not None:
            self._channel.close()
        self._channel = grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])
        self._answered_seconds = time.monotonic()

    def _await_address(self, controller: subprocess.Popen[bytes], log: Path, said_before: int) -> str:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            ready = files.read(self._state.controller, ControllerFile)
            if (
                ready is not None
                and ready.process.startswith(f"{controller.pid}:")
                and ready.run_id == self._run.run_id
            ):
                return ready.address
            if controller.poll() is not None:
                said = log.read_bytes()[said_before:].decode("utf-8", errors="replace").strip().splitlines()
                words = said[-1].removeprefix("thinwire: ") if said else f"it ended with {controller.returncode}"
                kind = Refused if controller.returncode == _BAD_INPUT else Failed
                raise kind(words if kind is Refused else f"the controller does not start: {words}; see {log}")
            if time.monotonic() > deadline:
                raise Failed(f"the controller is not ready after {_START_SECONDS:.0f} s; see {log}")
            if self._stop.signal is not None:
                raise _InterruptedError
            time.sleep(0.02)

    def _respawn(self) -> None:
        now = time.monotonic()
        recent = [spawned for spawned in self._spawned_seconds if now - spawned < _RESPAWN_WINDOW_SECONDS]
        if len(recent) > _MOST_RESPAWNS:
            last = tail(self._state.root / "controller.log").strip().splitlines()[-1:]
            raise Failed(f"the controller ended {len(recent)} times within a minute: {''.join(last)}")
        try:
            self._start_controller()
        except Refused as refused:
            if isinstance(refused, Failed):
                raise
            # The port is somebody else's now. Ranks cannot find the new one; the next attempt will.
            self._port = 0
            self._start_controller()

    def _end_controller(self) -> None:
        controller, self._controller = self._controller, None
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if controller is None:
            return
        controller.terminate()
        # A stopped process hears nothing until it is continued.
        controller.send_signal(signal.SIGCONT)
        try:
            controller.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            controller.kill()
            controller.wait()

    def _end_ranks(self) -> None:
        """End whatever still runs in the output folder: politely by its guard, then for certain."""
        deadline = time.monotonic() + _GONE_SECONDS
        guards = [self._guard(number) for number in self._state.attempts()]
        for guard in guards:
            if guard is not None:
                guard.send(signal.SIGTERM)
        while left := with_environment(GUARDED_VARIABLE, str(self._state.root)):
            if time.monotonic() > deadline:
                for process in left:
                    process.send(signal.SIGKILL)
            time.sleep(0.05)

    def _guard(self, number: int) -> Process | None:
        try:
            guard = Process.parse(self._state.guard(number).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return guard if guard.alive else None
