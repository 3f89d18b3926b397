"""Starts an attempt's ranks on this machine: a guard, below it torchrun, below that the ranks.

Whatever is known of an attempt is in its folder, so a controller that comes later finds the ranks of the one before.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog
from google.protobuf import json_format

from thinwire.controller.launcher import LaunchError
from thinwire.controller.local import files
from thinwire.controller.local.files import ExitFile, RunFile, StateFolder, StopFile
from thinwire.controller.local.logs import read_progress
from thinwire.controller.local.processes import Process, with_environment
from thinwire.controller.plan import Attempt, StopReason
from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import RunSpec

RUN_SPEC_VARIABLE = "THINWIRE_RUN_SPEC"
GUARDED_VARIABLE = "THINWIRE_GUARDED_IN"
"""Marks every process below a guard with its state folder, so that those it left behind can be found."""

_GUARD_STARTS_SECONDS = 20.0
_STRAYS_END_SECONDS = 20.0
_GUARD_VANISHED = "the process that keeps the ranks was killed, and the ranks with it"

_log = structlog.get_logger(__name__)


def gang_command(run: RunFile, state: StateFolder, attempt: int) -> list[str]:
    """The command below the guard: one gang of ranks that torchrun itself never restarts."""
    return [
        *run.torchrun,
        *("--nnodes", "1", "--nproc-per-node", str(run.ranks), "--max-restarts", "0"),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"),
        *("--rdzv-id", f"{run.name}-{attempt}", "--log-dir", str(state.log(attempt)), "--redirects", "3"),
        *("--module", run.rank_module),
    ]


def rank_environment(run: RunFile, state: StateFolder, inherited: Mapping[str, str]) -> dict[str, str]:
    """What the ranks find in their environment: the user's own, and what thinwire adds to it."""
    environment = dict(inherited) | {
        RUN_SPEC_VARIABLE: str(state.run_spec),
        GUARDED_VARIABLE: str(state.root),
        "PYTHONUNBUFFERED": "1",
    }
    if run.ranks_on_cpu:
        threads = max(1, len(os.sched_getaffinity(0)) // run.ranks)
        environment.setdefault("OMP_NUM_THREADS", str(threads))
    return environment


@dataclass(frozen=True, slots=True)
class LocalLauncher:
    """The Launcher of one run in one output folder. `owner` is the process whose death ends the ranks.

    Files and processes are looked after beside the event loop.
    """

    run: RunFile
    state: StateFolder
    owner: Process
    telemetry_address: str

    async def attempts(self) -> tuple[Attempt, ...]:
        """Every attempt of this folder, earlier runs' included."""
        return await asyncio.to_thread(self._attempts)

    async def start(self, number: int) -> None:
        """Start attempt `number` after anything that an earlier one left behind is gone; raises LaunchError."""
        await asyncio.to_thread(self._start, number)

    async def stop(self, number: int, reason: StopReason) -> None:
        """Write down why, then have the guard end its gang."""
        await asyncio.to_thread(self._stop, number, reason)

    def _attempts(self) -> tuple[Attempt, ...]:
        return tuple(self._attempt(number) for number in self.state.attempts())

    def _start(self, number: int) -> None:
        self._end_strays()
        folder = self.state.attempt(number)
        try:
            folder.mkdir()
            self._write_run_spec(number)
            guard = subprocess.Popen(
                [
                    *(sys.executable, "-m", "thinwire.controller.local.guard"),
                    *("--owner", str(self.owner), "--attempt", str(folder), "--"),
                    *gang_command(self.run, self.state, number),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=(folder / "guard.log").open("ab"),
                env=rank_environment(self.run, self.state, os.environ),
                start_new_session=True,
            )
        except OSError as error:
            raise LaunchError(f"attempt {number} cannot be started: {error}") from error
        _log.info("attempt_started", attempt=number, guard=guard.pid)
        self._await_guard(number, guard)

    def _stop(self, number: int, reason: StopReason) -> None:
        files.write(self.state.stop(number), StopFile(reason))
        guard = self.guard(number)
        if guard is not None:
            guard.send(signal.SIGTERM)

    def guard(self, number: int) -> Process | None:
        """The living guard of an attempt, or None."""
        path = self.state.guard(number)
        try:
            guard = Process.parse(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return guard if guard.alive and _locked(path) else None

    def _attempt(self, number: int) -> Attempt:
        stop = files.read(self.state.stop(number), StopFile)
        ended = files.read(self.state.exit(number), ExitFile)
        if ended is None and not _locked(self.state.guard(number)):
            # Read again: the guard may have written its last word between the two looks.
            ended = files.read(self.state.exit(number), ExitFile) or self._bury(number)
        return Attempt(
            number,
            exit_code=ended.exit_code if ended else None,
            ended_seconds=ended.ended_seconds if ended else 0.0,
            message=ended.message if ended else read_progress(self.state.log(number)),
            stop=StopReason(stop.reason) if stop else None,
        )

    def _bury(self, number: int) -> ExitFile:
        ended = ExitFile(-signal.SIGKILL, -signal.SIGKILL, time.time(), _GUARD_VANISHED)
        files.write(self.state.exit(number), ended)
        return ended

    def _await_guard(self, number: int, guard: subprocess.Popen[bytes]) -> None:
        """Wait until the guard holds its lock: from then on the folder tells the truth."""
        deadline = time.monotonic() + _GUARD_STARTS_SECONDS
        while not _locked(self.state.guard(number)) and not self.state.exit(number).exists():
            if guard.poll() is not None and not self.state.exit(number).exists():
                said = (self.state.attempt(number) / "guard.log").read_text(encoding="utf-8", errors="replace").strip()
                raise LaunchError(
                    f"attempt {number}: its guard ended at once: {said.splitlines()[-1:] or guard.returncode}"
                )
            if time.monotonic() > deadline:
                guard.kill()
                raise LaunchError(f"attempt {number}: its guard did not start in {_GUARD_STARTS_SECONDS:.0f} s")
            time.sleep(0.01)

    def _write_run_spec(self, number: int) -> None:
        spec = json_format.ParseDict(self.run.run_spec, RunSpec())
        spec.attempt, spec.telemetry_address = number, self.telemetry_address
        files.write(self.state.run_spec, json_format.MessageToDict(spec, preserving_proto_field_name=True))

    def _end_strays(self) -> None:
        """Kill ranks whose guard was killed before them: two gangs must never write into one folder."""
        deadline = time.monotonic() + _STRAYS_END_SECONDS
        while strays := with_environment(GUARDED_VARIABLE, str(self.state.root)):
            for stray in strays:
                _log.warning("stray_rank_killed", pid=stray.pid)
                stray.send(signal.SIGKILL)
            if time.monotonic() > deadline:
                raise LaunchError(f"process {strays[0].pid} of an earlier attempt does not end; end it by hand")
            time.sleep(0.01)


def _locked(path: Path) -> bool:
    """Whether somebody holds the lock of a guard's file."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
