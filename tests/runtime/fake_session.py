"""A session whose pictures are drawn instead of computed, alone or in a process of its own."""

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.runtime.facts_of_a_run import picture, run_facts, steps_of
from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import Prompt, RunSpec
from thinwire.runtime.entry import enter
from thinwire.runtime.facts import RunFacts, StepFacts, StepHooks
from thinwire.runtime.picture import Made
from thinwire.runtime.run import Tell, Verdict, run_attempt


@dataclass(slots=True)
class FakeSession:
    spec: RunSpec
    hooks: StepHooks
    rank: int = 0
    replicas: int = 1
    generated: list[tuple[str, int]] = field(default_factory=list)
    closed: bool = False
    before_picture: Callable[[str], None] = lambda name: None

    def describe(self) -> RunFacts:
        return run_facts()

    def generate(self, prompts: Sequence[Prompt], *, first_job_step: int) -> list[Made]:
        self.generated.extend((prompt.name, first_job_step) for prompt in prompts)
        for facts in self._steps(prompts[0].name):
            self.hooks.on_step(facts)
            self.hooks.newest_directive()
        for prompt in prompts:
            self.before_picture(prompt.name)
        return [picture(prompt.seed) for prompt in prompts] if self.rank == 0 else []

    def close(self) -> None:
        self.closed = True

    def _steps(self, name: str) -> list[StepFacts]:
        return [facts for facts in steps_of(self.spec) if facts.prompt == name] if self.rank == 0 else []


class Tellers:
    """`tell` for ranks that are threads."""

    def __init__(self, ranks: int) -> None:
        self._barrier = threading.Barrier(ranks, timeout=10)
        self._said: Verdict = ("", [])

    def of(self, rank: int) -> Tell:
        def tell(verdict: Verdict) -> Verdict:
            if rank == 0:
                self._said = verdict
            self._barrier.wait()
            said = self._said
            self._barrier.wait()
            return said

        return tell


def work(spec: RunSpec, rank: int) -> None:
    def open_session(spec: RunSpec, hooks: StepHooks) -> FakeSession:
        return FakeSession(spec, hooks, before_picture=drawn)

    def drawn(name: str) -> None:
        with (Path(spec.model.path).parent / "drawn.txt").open("a") as file:
            file.write(f"{name} {time.time()}\n")
        if os.environ.get("FAIL_AT") == name:
            raise RuntimeError("Connection closed by peer [127.0.0.1]:4242\nand more")

    run_attempt(spec, rank=rank, open_session=open_session, tell=lambda verdict: verdict)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    enter(work)
