"""Keeper of one gang: `python -m thinwire.controller.local.guard --owner PID:TICKS --attempt DIR -- COMMAND...`

The guard starts COMMAND and waits. It outlives the controller, so ranks do too; it does not outlive the owner (the
`thinwire run` in front of the user), nor leaves a rank behind: every descendant is its own child in the end
(subreaper), and is killed before exit.json is written. While it lives it holds a lock on guard.pid.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from thinwire.controller.local import files
from thinwire.controller.local.logs import TORCHRUN_LOG, read_ending
from thinwire.controller.local.processes import Process, adopt_orphans, descendants, die_with_parent

GRACE_SECONDS = 8.0

_LOCK_SECONDS = 1.0

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main() -> int:
    """Keep one gang; returns 0 once exit.json tells the rest, 1 if the attempt is not this guard's to keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--owner", required=True, type=Process.parse)
    parser.add_argument("--attempt", required=True, type=Path)
    parser.add_argument("command", nargs="+")
    asked = parser.parse_args()
    wake = _wake_on_signals()
    attempt: Path = asked.attempt
    held = _hold(attempt / "guard.pid")
    if held is None or (attempt / "exit.json").exists():
        sys.stderr.write(f"{attempt} has or had a guard already\n")
        return 1
    adopt_orphans()
    log = attempt / "log"
    log.mkdir(exist_ok=True)
    returncode = _keep(asked.command, asked.owner, log / TORCHRUN_LOG, wake)
    ending = read_ending(log, returncode)
    files.write(
        attempt / "exit.json",
        files.ExitFile(returncode, ending.exit_code, time.time(), ending.message, ending.rank),
    )
    held.close()
    return 0


def _hold(path: Path) -> IO[str] | None:
    """Lock the file that stands for this attempt; None if another guard has it.

    A controller that looks whether the lock is held has it for a moment, so one refusal is not the last word.
    """
    file = path.open("a+", encoding="utf-8")
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                file.close()
                return None
            time.sleep(0.01)
    file.truncate(0)
    file.write(str(Process.of(os.getpid())))
    file.flush()
    return file


def _wake_on_signals() -> int:
    """Turn the signals that mean "stop" into bytes on a pipe; return its reading end."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    for number in _STOP_SIGNALS:
        signal.signal(number, lambda *_: None)
    return reading


def _keep(command: list[str], owner: Process, log: Path, wake: int) -> int:
    try:
        owner_died = os.pidfd_open(owner.pid)
    except ProcessLookupError:
        return -signal.SIGTERM
    if not owner.alive:
        return -signal.SIGTERM
    with log.open("ab") as output:
        gang = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    gang_ended = os.pidfd_open(gang.pid)
    select.select([owner_died, gang_ended, wake], [], [])
    if gang.poll() is None:
        gang.terminate()
        select.select([gang_ended], [], [], GRACE_SECONDS)
    _end_all(gang)
    return gang.returncode


def _end_all(gang: subprocess.Popen[bytes]) -> None:
    if gang.poll() is None:
        gang.kill()
    gang.wait()
    while left := descendants(os.getpid()):
        for process in left:
            process.send(signal.SIGKILL)
        _reap()


def _reap() -> None:
    """Wait for one orphan to end, then collect every other that has."""
    try:
        os.waitpid(-1, 0)
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


if __name__ == "__main__":
    sys.exit(main())
