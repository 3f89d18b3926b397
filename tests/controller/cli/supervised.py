"""`python -m tests.controller.cli.supervised OUT MODULE`: a whole local run of a fake rank, as a process to kill."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.controller.local.runs import fake_run
from tests.controller.waiting import eventually
from thinwire.controller.cli.supervise import Outcome, Stop, Supervisor
from thinwire.controller.local import files
from thinwire.controller.local.files import ControllerFile, StateFolder
from thinwire.controller.local.launcher import GUARDED_VARIABLE
from thinwire.controller.local.processes import Process, with_environment
from thinwire.proto.thinwire.v1alpha1.status_pb2 import JobStatus


class Notes:
    """A display that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.job: JobStatus | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def show(self, job: JobStatus | None, note: str) -> None:
        self.job = job
        if note and note not in self.notes:
            self.notes.append(note)


class Running:
    """A supervised run in a thread of this process."""

    def __init__(self, folder: Path, *, max_restarts: int = 0, deadline: int | None = None, port: int = 0) -> None:
        self.folder = folder
        self.output = folder / "out"
        self.state = StateFolder(self.output)
        self.display, self.stop = Notes(), Stop()
        self.run = fake_run(self.output, f"job:{folder}", max_restarts=max_restarts, deadline=deadline)
        self.supervisor = Supervisor(self.output, self.run, port, self.display, self.stop)
        self.outcome: Outcome | BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            self.outcome = self.supervisor.run()
        except BaseException as error:
            self.outcome = error

    def rank(self) -> Process:
        eventually((self.folder / "pid").exists)
        return Process.of(int((self.folder / "pid").read_text()))

    def rank_after(self, before: Process) -> Process:
        """The rank that took the place of one that died."""
        eventually(lambda: (self.folder / "pid").read_text() != str(before.pid))
        return self.rank()

    def steps(self) -> int:
        place = self.folder / "steps"
        return int(place.read_text() or 0) if place.exists() else 0

    def controller(self) -> Process:
        found = eventually(lambda: files.read(self.state.controller, ControllerFile))
        assert found is not None
        return Process.parse(found.process)

    def seen_running(self) -> JobStatus:
        def stepping() -> JobStatus | None:
            return self.display.job if self.display.job is not None and self.display.job.step else None

        found = eventually(stepping)
        assert found is not None
        return found

    def finish(self, code: int = 0) -> None:
        partial = self.folder / "finish.partial"
        partial.write_text(str(code))
        partial.rename(self.folder / "finish")

    def ended(self, within_seconds: float = 120.0) -> Outcome:
        self._thread.join(within_seconds)
        assert isinstance(self.outcome, Outcome), repr(self.outcome)
        return self.outcome

    def left(self) -> list[Process]:
        return with_environment(GUARDED_VARIABLE, str(self.state.root))


def main() -> None:
    output, module = Path(sys.argv[1]), sys.argv[2]
    run = fake_run(output, module)
    with Stop().listening() as stop:
        sys.exit(Supervisor(output, run, 0, Notes(), stop).run().exit_code)


if __name__ == "__main__":
    main()
