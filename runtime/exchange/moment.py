"""Where the run is: the exchanges are not told by upstream which layer and step they serve."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from thinwire.compression import Rung
from thinwire.runtime.parallel import LinkClass

CHECKSUM_EVERY_STEPS = 8


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a step codes with, the same on every rank. A frame that is read in a later step keeps the stamp it has."""

    job_step: int = 0
    step: int = 0
    epoch: int = 0
    key_frame: bool = True
    rungs: Mapping[LinkClass, Rung | None] = field(default_factory=dict)
    """None: exchange without codec."""

    @property
    def checks(self) -> bool:
        """Whether both ends of every stream note a checksum of their base after this step's frame."""
        return (self.step + 1) % CHECKSUM_EVERY_STEPS == 0


@dataclass(slots=True)
class Moment:
    """Set by `steps` (layer, branch) and by the boundary (everything else); read by every exchange."""

    stamp: Stamp = field(default_factory=Stamp)
    last_stamp: Stamp = field(default_factory=Stamp)
    """Of the step before."""
    layer: int = 0
    branch: int = -1
    """Forwards of the transformer in this step, less one."""
    step_started: float = 0.0
    """Seconds of the monotonic clock."""
    inputs_seen: int = 0
    """Ulysses inputs of the current attention call that came one by one: query, key, value."""

    def enter(self, stamp: Stamp) -> None:
        """Begin a step."""
        self.stamp, self.last_stamp = stamp, self.stamp
        self.branch = -1

    def stamp_of(self, step: int) -> Stamp:
        """Return the stamp of this step of the prompt or the one before.

        Raises:
            ValueError: it is another step's.
        """
        for stamp in (self.stamp, self.last_stamp):
            if stamp.step == step:
                return stamp
        raise ValueError(f"expected step {self.step} or the one before it, got {step}: the ranks are out of step")

    @property
    def step(self) -> int:
        """Counted from 0 in the prompt."""
        return self.stamp.step

    @property
    def job_step(self) -> int:
        """Counted from 0 in the job."""
        return self.stamp.job_step
