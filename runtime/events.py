"""OUT/events.jsonl: what happened in a job, one JSON object a line, appended by rank 0 and never rewritten.

Every line has `type` and `time` (seconds since the epoch, of rank 0's clock); the other keys are the fields of the
dataclass that the type names. Several attempts follow each other in one file. A process that is killed may leave a
last line without its end: the writer closes it before it appends, the reader passes over it and counts it.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thinwire.runtime.facts import Retune, RungFacts, StepFacts, WindowFacts
from thinwire.runtime.files import output_error, write_all


@dataclass(frozen=True, slots=True)
class AttemptStarted:
    """Ranks have met, the model is loaded, the first prompt is about to begin."""

    attempt: int
    versions: Mapping[str, str]
    world_size: int
    spec: Mapping[str, Any]
    """The RunSpec as protobuf JSON."""
    ladder: tuple[RungFacts, ...]
    rates: Mapping[str, int]
    base_memory_bytes: int
    kernel: str
    link_is_emulated: bool
    prompts_finished: int
    """Pictures that were there before this attempt."""
    load_seconds: float = 0.0
    """From the process's start until the model was loaded."""


@dataclass(frozen=True, slots=True)
class PromptFinished:
    """A picture is in its place. `file` is relative to OUT."""

    prompt: str
    seed: int
    file: str
    seconds: float


@dataclass(frozen=True, slots=True)
class AttemptFinished:
    """The attempt ended by itself; one that was killed leaves no such line. `seconds` are since it started, apart from
    loading.
    """

    attempt: int
    succeeded: bool
    message: str
    seconds: float


Event = AttemptStarted | StepFacts | Retune | PromptFinished | AttemptFinished

_TYPES: Mapping[str, type[Event]] = {
    "attempt_started": AttemptStarted,
    "step": StepFacts,
    "retune": Retune,
    "prompt_finished": PromptFinished,
    "attempt_finished": AttemptFinished,
}
_NAMES: Mapping[type[Event], str] = {kind: name for name, kind in _TYPES.items()}
_NESTED: Mapping[str, Callable[[Any], Any]] = {
    "ladder": lambda raw: tuple(_build(RungFacts, rung) for rung in raw),
    "windows": lambda raw: tuple(_build(WindowFacts, window) for window in raw),
    "retunes": lambda raw: tuple(_build(Retune, retune) for retune in raw),
}


@dataclass(frozen=True, slots=True)
class Record:
    """One line of the file."""

    time: float
    event: Event


@dataclass(slots=True)
class Reading:
    """Every record of a file in its order, and how many lines told nothing."""

    records: list[Record] = field(default_factory=list)
    unreadable_lines: int = 0


def to_line(record: Record) -> str:
    """Return the JSON object of `record`, without a line end. Retunes of a step are lines of their own."""
    body = dataclasses.asdict(record.event)
    if isinstance(record.event, StepFacts):
        del body["retunes"]
    return json.dumps(
        {"type": _NAMES[type(record.event)], "time": record.time, **body}, separators=(",", ":"), ensure_ascii=False
    )


def from_line(line: str) -> Record:
    """Return the record of one line; keys that are not known are passed over.

    Raises:
        ValueError: not JSON, a type that is not known, or a field that is missing or of another kind.
    """
    raw = json.loads(line)
    if not isinstance(raw, dict) or raw.get("type") not in _TYPES:
        raise ValueError(f"expected an event of type {', '.join(_TYPES)}, got {line[:80]!r}")
    time = raw.get("time")
    if not isinstance(time, int | float):
        raise ValueError(f"expected a time in seconds, got {time!r}")
    return Record(float(time), _build(_TYPES[raw["type"]], raw))


def _build(kind: type[Any], raw: Any) -> Any:
    if not isinstance(raw, Mapping):
        raise ValueError(f"expected the fields of {kind.__name__}, got {raw!r}")
    known = {entry.name for entry in dataclasses.fields(kind)}
    values = {key: _NESTED.get(key, _as_is)(value) for key, value in raw.items() if key in known}
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{kind.__name__}: {error}") from error


def _as_is(value: Any) -> Any:
    return value


class EventLog:
    """Appends records to one file. Not for several threads or processes at once."""

    def __init__(self, path: Path) -> None:
        """Open `path` for appending, and end a line that an earlier process left open.

        Raises:
            OutputError: it cannot be written to.
        """
        self._path = path
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            size_bytes = os.fstat(self._descriptor).st_size
            if size_bytes and os.pread(self._descriptor, 1, size_bytes - 1) != b"\n":
                write_all(self._descriptor, b"\n")
        except OSError as error:
            raise output_error(path, error) from error

    def append(self, record: Record) -> None:
        """Write one line; it is in the kernel's hands, and survives this process, when this returns.

        Raises:
            OutputError: no space is left.
        """
        try:
            write_all(self._descriptor, to_line(record).encode() + b"\n")
        except OSError as error:
            raise output_error(self._path, error) from error

    def sync(self) -> None:
        """Wait until all lines are on the disk.

        Raises:
            OutputError: the disk failed.
        """
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise output_error(self._path, error) from error

    def close(self) -> None:
        """Close the file; nothing can be appended afterwards."""
        os.close(self._descriptor)


def read_events(path: Path) -> Reading:
    """Return what `path` holds; a file that does not exist holds nothing.

    Raises:
        OSError: the file is there and cannot be read.
    """
    reading = Reading()
    for line in _lines(path):
        try:
            reading.records.append(from_line(line))
        except ValueError:
            reading.unreadable_lines += 1
    return reading


def _lines(path: Path) -> Iterator[str]:
    try:
        file = path.open(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    with file:
        for line in file:
            if line.strip():
                yield line
