"""What one rank measures of one step's exchanges, in the order in which they ran."""

from dataclasses import dataclass, field
from enum import StrEnum

from thinwire.runtime.parallel import LinkClass


class Operation(StrEnum):
    """What carries tensors between ranks."""

    RING = "ring.all_gather"
    """One hop of it."""
    ULYSSES = "ulysses.all_to_all"
    GUIDANCE = "guidance.all_gather"
    PIPEFUSION = "pipefusion.send"
    GATHER = "patch.all_gather"
    DISTRIFUSION = "distrifusion.all_gather"


@dataclass(frozen=True, slots=True)
class Sample:
    """One transfer: what this rank sent in it, and how long it took, pacing included.

    waited_seconds: what of it this rank stood still for; the rest was hidden behind computing.
    """

    operation: Operation
    link_class: LinkClass
    sent_bytes: int
    values: int
    seconds: float
    waited_seconds: float


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
        """What the step stood still for: transfers that nothing hid, and the codec."""
        transfers = sum(sample.waited_seconds for sample in self.samples)
        return transfers + sum(self.encode_seconds.values()) + sum(self.decode_seconds.values())
