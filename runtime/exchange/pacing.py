"""An emulated link: every rank's sends take at least as long as its rate says, whatever the machine could do."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import EmulatedLinkPhase


@dataclass(frozen=True, slots=True)
class Phase:
    """A rate that holds from a step of the job on; 0 means no limit."""

    from_step: int
    bits_per_second: int


@dataclass(slots=True)
class Pacer:
    """A token bucket without burst: a send that starts when the link is free ends bytes / rate later, not sooner."""

    phases: Sequence[Phase]
    clock: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep

    @classmethod
    def from_spec(cls, phases: Sequence[EmulatedLinkPhase]) -> "Pacer":
        """Take the phases of a RunSpec, in any order."""
        ordered = sorted((Phase(phase.from_step, phase.bits_per_second) for phase in phases), key=lambda p: p.from_step)
        return cls(tuple(ordered))

    @property
    def emulates(self) -> bool:
        """Whether there is any phase."""
        return bool(self.phases)

    def bits_per_second(self, job_step: int) -> int:
        """Return the rate in a step of the job; 0 for no limit."""
        rate = 0
        for phase in self.phases:
            if phase.from_step <= job_step:
                rate = phase.bits_per_second
        return rate

    def pace(self, started: float, sent_bytes: int, job_step: int) -> None:
        """Sleep until a send of `sent_bytes` that started at `started` (of `clock`) may end."""
        rate = self.bits_per_second(job_step)
        if rate <= 0:
            return
        left = started + sent_bytes * 8 / rate - self.clock()
        if left > 0:
            self.sleep(left)
