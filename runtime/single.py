"""`python -m thinwire.runtime.single`: the pictures of THINWIRE_RUN_SPEC by diffusers alone, in one process.

What a parallel run is compared with: same folder layout, events and exit codes as `thinwire.runtime`, no exchange.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import Prompt, RunSpec
from thinwire.runtime.entry import enter
from thinwire.runtime.facts import RunFacts, StepHooks
from thinwire.runtime.picture import Made, made_of
from thinwire.runtime.reference import Reference
from thinwire.runtime.run import run_attempt
from thinwire.runtime.versions import versions


@dataclass(frozen=True, slots=True)
class SingleSession:
    """A `Reference` that can be run like a session of one rank."""

    reference: Reference

    @classmethod
    def open(cls, spec: RunSpec, hooks: StepHooks) -> "SingleSession":
        """Load the model; there is no exchange to report, so the hooks are never called."""
        return cls(Reference.open(spec))

    def describe(self) -> RunFacts:
        """Return facts without ladder and traffic."""
        return RunFacts(
            world_size=1,
            ladder=(),
            traffic=(),
            rates={},
            kernel="none",
            base_memory_bytes=0,
            versions=versions(),
            link_is_emulated=False,
        )

    @property
    def replicas(self) -> int:
        """One process works on one prompt."""
        return 1

    def generate(self, prompts: Sequence[Prompt], *, first_job_step: int) -> list[Made]:
        """Make the pictures."""
        reference = self.reference
        return [made_of(reference.generate_pixels(prompt), reference.generation) for prompt in prompts]

    def close(self) -> None:
        """Nothing is held but memory."""


def work(spec: RunSpec, rank: int) -> None:
    """Make the pictures that are missing."""
    run_attempt(spec, rank=rank, open_session=SingleSession.open, tell=lambda verdict: verdict)


if __name__ == "__main__":
    enter(work)
