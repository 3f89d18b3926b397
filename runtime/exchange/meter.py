"""What one rank measures of one step's exchanges, in the order in which they ran."""

from dataclasses import dataclass, field
from enum import StrEnum

from thinwire.runtime.parallel import LinkClass


class Operation(StrEnum):
    """The two collectives."""

    RING = "ring.all_gather"
    ULYSSES = "ulysses.all_to_all"


@dataclass(frozen=True, slots=True)
class Sample:
    """One collective: what this rank sent in it, and how long it took, pacing included."""

    operation: Operation
    link_class: LinkClass
    sent_bytes: int
    values: int
    seconds: float


@dataclass(slots=True)
class StepMeter:
    """One step's measurements; `start` empties it for the next."""

    samples: list[Sample] = field(default_factory=list)
    encode_seconds: dict[Operation, float] = field(default_factory=dict)
    decode_seconds: dict[Operation, float] = field(default_factory=dict)
    max_relative_error: float = 0.0
    frames_refused: int = 0
    uncompressed_bytes: int = 0
    counted_bytes: int = 0
    """Taken from the tensors given to the process group, not from the frames put into them."""

    def start(self) -> None:
        """Forget the last step."""
        self.samples.clear()
        self.encode_seconds = dict.fromkeys(Operation, 0.0)
        self.decode_seconds = dict.fromkeys(Operation, 0.0)
        self.max_relative_error = 0.0
        self.frames_refused = 0
        self.uncompressed_bytes = 0
        self.counted_bytes = 0

    @property
    def sent_bytes(self) -> int:
        """What this rank sent in the step."""
        return sum(sample.sent_bytes for sample in self.samples)

    @property
    def values(self) -> int:
        """How many values that was."""
        return sum(sample.values for sample in self.samples)

    @property
    def exchange_seconds(self) -> float:
        """Collectives and codec together."""
        collectives = sum(sample.seconds for sample in self.samples)
        return collectives + sum(self.encode_seconds.values()) + sum(self.decode_seconds.values())
