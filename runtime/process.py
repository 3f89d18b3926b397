"""What makes a process a well-behaved rank: it dies with its parent, and its exit code says whether to try again."""

import contextlib
import ctypes
import os
import signal
from collections.abc import Mapping
from enum import IntEnum
from pathlib import Path

from thinwire.runtime.errors import BadInputError

TIMEOUT_VARIABLE = "THINWIRE_PEER_TIMEOUT_SECONDS"
"""Environment variable: how long a rank waits for its peers in one collective before it gives them up."""

LAST_WORD_VARIABLE = "THINWIRE_TERMINATION_MESSAGE"
"""Environment variable: a file for the sentence that a job ends with, where a pod keeps it for its controller."""

STARTED_VARIABLE = "THINWIRE_STARTED_FILE"
"""Environment variable: a file whose presence tells a pod's startup probe that the ranks in it are ready to work."""

_DEFAULT_TIMEOUT_SECONDS = 60.0
_PR_SET_PDEATHSIG = 1


class ExitCode(IntEnum):
    """How a rank ends. Everything else (signals included) may be restarted."""

    DONE = 0
    FAILED = 1
    BAD_INPUT = 2


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it ends, however that ends (Linux).

    Raises:
        OSError: the kernel refused.
        SystemExit: the parent was gone before the kernel was told.
    """
    parent = os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        raise SystemExit(ExitCode.FAILED)


def die_at_once_when_asked() -> None:
    """Let SIGINT and SIGTERM end the process in the kernel.

    A rank that waits in a collective runs no Python, so a handler would only delay the end until the collective's
    timeout; and there is nothing to tidy up: pictures are whole or absent, events are whole lines.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def leave_last_word(environment: Mapping[str, str], sentence: str) -> None:
    """Write why the job cannot be done to where the pod's termination message is read from; without one, nothing.

    A sentence that cannot be written is in the log all the same.
    """
    location = environment.get(LAST_WORD_VARIABLE, "")
    if location:
        with contextlib.suppress(OSError):
            Path(location).write_text(sentence, encoding="utf-8")


def tell_started(environment: Mapping[str, str]) -> None:
    """Make the file that the startup probe looks for, where there is one to make; raises OSError."""
    location = environment.get(STARTED_VARIABLE, "")
    if location:
        Path(location).touch()


def peer_timeout_seconds(environment: Mapping[str, str]) -> float:
    """Return how long a collective may wait for a peer that is silent; one that has died is noticed at once.

    Raises:
        BadInputError: the variable is set to something that is not a positive number.
    """
    text = environment.get(TIMEOUT_VARIABLE, "")
    if not text:
        return _DEFAULT_TIMEOUT_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise BadInputError(f"{TIMEOUT_VARIABLE}: expected a number of seconds above 0, got {text!r}; correct it")
    return seconds
