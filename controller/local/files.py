"""The state of a local run on disk, OUT/.thinwire: what lets another controller take over."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

FOLDER = ".thinwire"

Content = TypeVar("Content")


@dataclass(frozen=True, slots=True)
class RunFile:
    """OUT/.thinwire/run.json: what one call of `thinwire run` asks its controller to do.

    `run_spec` is RunSpec as protobuf JSON, without attempt and telemetry address; times are seconds since the epoch.
    `torchrun` is the command that takes torchrun's options and starts the ranks. `plan` is JobPlan as protobuf JSON,
    empty where ranks share nothing.
    """

    run_id: str
    namespace: str
    name: str
    ranks: int
    started_seconds: float
    first_attempt: int
    max_restarts: int
    active_deadline_seconds: int | None
    run_spec: dict[str, Any]
    torchrun: list[str]
    ranks_on_cpu: bool = True
    rank_module: str = "thinwire.runtime"
    plan: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ControllerFile:
    """OUT/.thinwire/controller.json: which process answers for this run, and where."""

    process: str
    address: str
    run_id: str


@dataclass(frozen=True, slots=True)
class ExitFile:
    """OUT/.thinwire/attempt-N/exit.json: how the ranks ended.

    `returncode` is torchrun's; `exit_code` the first failed rank's own, negative where a signal ended it.
    """

    returncode: int
    exit_code: int
    ended_seconds: float
    message: str = ""
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class StopFile:
    """OUT/.thinwire/attempt-N/stop.json: the controller asked this attempt to end."""

    reason: str


@dataclass(frozen=True, slots=True)
class StateFolder:
    """Paths below OUT/.thinwire, and how its files are written."""

    output: Path

    @property
    def root(self) -> Path:
        """OUT/.thinwire itself."""
        return self.output / FOLDER

    @property
    def run_spec(self) -> Path:
        """What the ranks read."""
        return self.root / "run_spec.json"

    @property
    def lock(self) -> Path:
        """Held (flock) by the one `thinwire run` that owns this output folder."""
        return self.root / "lock"

    @property
    def run(self) -> Path:
        """RunFile."""
        return self.root / "run.json"

    @property
    def controller(self) -> Path:
        """ControllerFile."""
        return self.root / "controller.json"

    def attempt(self, number: int) -> Path:
        """Folder of one attempt."""
        return self.root / f"attempt-{number}"

    def guard(self, number: int) -> Path:
        """Names the guard of an attempt, which holds a lock (flock) on it while it lives."""
        return self.attempt(number) / "guard.pid"

    def exit(self, number: int) -> Path:
        """ExitFile."""
        return self.attempt(number) / "exit.json"

    def stop(self, number: int) -> Path:
        """StopFile."""
        return self.attempt(number) / "stop.json"

    def log(self, number: int) -> Path:
        """Folder of what the ranks of an attempt and torchrun have said."""
        return self.attempt(number) / "log"

    def attempts(self) -> list[int]:
        """Numbers of all attempts there has been, in order."""
        found = (path.name.removeprefix("attempt-") for path in self.root.glob("attempt-*"))
        return sorted(int(name) for name in found if name.isdigit())


def write(path: Path, content: Any) -> None:
    """Write a dataclass or JSON value, so that a reader sees either the old file or the new one."""
    document = content if isinstance(content, dict) else asdict(content)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(document, indent=1), encoding="utf-8")
    partial.replace(path)


def read(path: Path, kind: type[Content]) -> Content | None:
    """Read what `write` wrote, or None where there is nothing readable."""
    try:
        return kind(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
