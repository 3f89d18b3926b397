"""`thinwire run` as a user calls it, on a tiny model, and what can be seen of it from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from tests.controller.waiting import eventually
from thinwire.controller.local import files
from thinwire.controller.local.files import ControllerFile, StateFolder
from thinwire.controller.local.launcher import GUARDED_VARIABLE
from thinwire.controller.local.processes import Process, with_environment

PROMPTS = {"heart": "a red heart", "rocket": "a blue rocket", "pizza": "pizza", "face": "a face of a heart"}
STEPS = 8
RUN_SECONDS = 900.0


@dataclass(frozen=True)
class Commands:
    """Commands of one tiny job in folders of their own."""

    folder: Path
    model: Path

    def manifest(self, **spec: Any) -> Path:
        """A job of two ranks at a fixed rate; nothing in it adapts, so its pictures are always the same."""
        document = {
            "apiVersion": "thinwire.dev/v1alpha1",
            "kind": "DiffusionJob",
            "metadata": {"name": "tiny"},
            "spec": {
                "model": {"source": {"path": str(self.model)}},
                "gpus": 2,
                "gpusPerPod": 2,
                "accelerator": "cpu",
                "parallelism": {"ring": 2},
                "compression": {
                    "mode": "Fixed",
                    "rate": {"minMillibits": 4000, "maxMillibits": 4000},
                    "maxRelativeErrorMilli": 900,
                },
                "generation": {
                    "steps": STEPS,
                    "guidanceScaleMilli": 1000,
                    "height": 64,
                    "width": 64,
                    "prompts": [{"name": name, "prompt": text, "seed": 7} for name, text in PROMPTS.items()],
                },
                "runPolicy": {"maxRestarts": 3},
                **spec,
            },
        }
        file = self.folder / "job.yaml"
        file.write_text(yaml.safe_dump(document))
        return file

    def start(self, output: Path, *options: str, manifest: Path | None = None) -> Running:
        """Call `thinwire run`, in a session of its own, and return at once."""
        arguments = ["run", str(manifest or self.manifest()), "--output", str(output), *options]
        log = self.folder / f"{output.name}.log"
        with log.open("ab") as said:
            began = said.tell()
            process = subprocess.Popen(
                thinwire(*arguments), env=self.environment(), stdout=said, stderr=said, start_new_session=True
            )
        return Running(process, output, log, began)

    def environment(self) -> dict[str, str]:
        """A registry of the test's own, and one thread per rank."""
        return dict(os.environ) | {"XDG_RUNTIME_DIR": str(self.folder), "OMP_NUM_THREADS": "1"}

    def ask(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another terminal: `thinwire ARGUMENTS`."""
        return subprocess.run(
            thinwire(*arguments), env=self.environment(), capture_output=True, text=True, timeout=RUN_SECONDS
        )


@dataclass(frozen=True)
class Running:
    """One call of `thinwire run`."""

    process: subprocess.Popen[bytes]
    output: Path
    log: Path
    began: int

    @property
    def state(self) -> StateFolder:
        return StateFolder(self.output)

    def said(self) -> str:
        return self.log.read_bytes()[self.began :].decode()

    def ended(self) -> int:
        """Its exit code."""
        try:
            return self.process.wait(RUN_SECONDS)
        finally:
            self.process.kill()

    def steps(self) -> int:
        """Steps that any attempt in this folder has written down."""
        events = self.output / "events.jsonl"
        return events.read_text().count('{"type":"step",') if events.exists() else 0

    def after_steps(self, number: int) -> None:
        """Wait for `number` more steps; fail if the command ends before."""
        until = self.steps() + number

        def there() -> bool:
            assert self.process.poll() is None, self.said()
            return self.steps() >= until

        eventually(there, within_seconds=RUN_SECONDS)

    def guard(self) -> Process:
        """The guard of the newest attempt."""

        def read() -> Process | None:
            newest = max(self.state.attempts(), default=0)
            try:
                return Process.parse(self.state.guard(newest).read_text())
            except (OSError, ValueError):
                return None

        found = eventually(read, within_seconds=RUN_SECONDS)
        assert found is not None
        return found

    def controller(self) -> Process:
        found = files.read(self.state.controller, ControllerFile)
        assert found is not None
        return Process.parse(found.process)

    def ranks(self) -> list[Process]:
        """The processes of this run that are ranks."""

        def is_rank(process: Process) -> bool:
            try:
                return b"RANK=" in Path(f"/proc/{process.pid}/environ").read_bytes()
            except OSError:
                return False

        return [process for process in self.left() if is_rank(process)]

    def left(self) -> list[Process]:
        """Whatever of this run's ranks, torchrun and guard still lives."""
        return with_environment(GUARDED_VARIABLE, str(self.state.root))


def thinwire(*arguments: str) -> Sequence[str]:
    return [sys.executable, "-c", "from thinwire.controller.cli.main import main; main()", *arguments]


def report_of(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "report.json").read_text())
    return found


def pictures(output: Path) -> dict[str, np.ndarray[Any, Any]]:
    """All finished pictures, by name."""
    found = {}
    for path in sorted((output / "images").glob("*.png")):
        with Image.open(path) as image:
            found[path.stem] = np.asarray(image.convert("RGB")).copy()
    return found


def same(one: dict[str, np.ndarray[Any, Any]], other: dict[str, np.ndarray[Any, Any]]) -> bool:
    """Whether two sets of pictures are the same to the last bit."""
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
