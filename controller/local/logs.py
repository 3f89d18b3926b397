"""What a gang's logs say of its end: which rank failed first, how, and its last words.

torchrun itself always ends with 1; its closing summary names the first rank that failed, with that rank's exit code.
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from pathlib import Path

TORCHRUN_LOG = "torchrun.log"

_ROOT_CAUSE = re.compile(
    r"Root Cause.*?rank\s*:\s*(?P<rank>\d+)\s*\(local_rank:\s*(?P<local_rank>\d+)\).*?exitcode\s*:\s*(?P<code>-?\d+)",
    re.DOTALL,
)
_LOADING = re.compile(r"event=model\.loading component=(\S+) number=(\d+) total=(\d+)")
_TAIL_BYTES = 65_536
_LONGEST_MESSAGE = 600
_PREFIX = "thinwire: "


@dataclass(frozen=True, slots=True)
class Ending:
    """`exit_code` is the failed rank's where one is known, else torchrun's own; `message` is one line for a person."""

    exit_code: int
    message: str
    rank: int | None = None


def read_ending(log: Path, returncode: int) -> Ending:
    """Make out how the gang ended whose torchrun ended with `returncode`."""
    if returncode == 0:
        return Ending(0, "")
    said = tail(log / TORCHRUN_LOG)
    cause = _ROOT_CAUSE.search(said)
    if cause is None:
        return Ending(returncode, _last_line(said) or f"torchrun ended with {_named(returncode)} and said nothing")
    rank, code = int(cause["rank"]), int(cause["code"])
    if code < 0:
        return Ending(code, f"rank {rank} was ended by {_named(code)}", rank)
    if sentence := _sentence(log):
        return Ending(code, sentence, rank)
    words = _last_line(_stderr_of(log, cause["local_rank"]))
    return Ending(code, f"rank {rank} ended with {_named(code)}: {words or 'it said nothing'}", rank)


def read_progress(log: Path) -> str:
    """What rank 0 is at while it loads the model, or nothing if it has not said."""
    found = _LOADING.findall(_stderr_of(log, "0"))
    if not found:
        return ""
    component, number, total = found[-1]
    return f"loading the model: {component}, {number} of {total}"


def tail(path: Path) -> str:
    """The end of a log, or nothing where there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            return file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""


def _sentence(log: Path) -> str:
    """What a rank had to say to the user: one of them says it for all."""
    said = (_last_line(tail(path)) for path in sorted(log.glob("*/attempt_0/*/stderr.log")))
    return next((line.removeprefix(_PREFIX) for line in said if line.startswith(_PREFIX)), "")


def _stderr_of(log: Path, local_rank: str) -> str:
    newest = max(log.glob(f"*/attempt_0/{local_rank}/stderr.log"), default=None, key=lambda path: path.stat().st_mtime)
    return tail(newest) if newest else ""


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    spoken = next((line for line in reversed(lines) if line.startswith(_PREFIX)), lines[-1] if lines else "")
    return spoken[:_LONGEST_MESSAGE]


def _named(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
