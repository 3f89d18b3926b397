"""What the runtime's parts tell each other: facts of a run, a step and a retune, and the hooks that carry them.

A `Session` makes facts and never knows who reads them: events, telemetry and the report are made from these alone.
Everything here is a value; no tensor, process group or file is reachable from it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class RungFacts:
    """One rung of the ladder as this run pays for it: headers, scales and measured codec cost included."""

    name: str
    millibits: int
    encode_seconds_per_value: float
    decode_seconds_per_value: float
    distortion: float = 0.0
    """Share of a residual's energy that is lost."""


@dataclass(frozen=True, slots=True)
class TrafficFacts:
    """What one rank sends in one step over one link class, whatever the rate."""

    link_class: str
    values_per_step: int
    operations_per_step: int


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What is known of a run once its ranks have met and the model is loaded."""

    world_size: int
    ladder: tuple[RungFacts, ...]
    traffic: tuple[TrafficFacts, ...]
    rates: Mapping[str, int]
    """Millibits per value in force at the start, by link class."""
    kernel: str
    base_memory_bytes: int
    """Largest of the ranks, as planned before the first step."""
    versions: Mapping[str, str]
    link_is_emulated: bool


@dataclass(frozen=True, slots=True)
class WindowFacts:
    """Sufficient statistics of one step's exchanges of one operation over one link class.

    The duration of an exchange is the least over the ranks that took part in it; encode and decode seconds are those
    of the slowest rank.
    """

    link_class: str
    operation: str
    count: int
    sum_bytes: float
    sum_seconds: float
    sum_bytes_squared: float
    sum_bytes_seconds: float
    sum_seconds_squared: float
    min_seconds: float
    max_seconds: float
    encode_seconds: float
    decode_seconds: float
    values: int
    hidden_seconds: float = 0.0
    """Of `sum_seconds`, what passed while every rank of the exchange computed."""


@dataclass(frozen=True, slots=True)
class Retune:
    """A directive as it was applied, for one link class: the first step that ran at the new rate."""

    job_step: int
    prompt: str
    step: int
    epoch: int
    link_class: str
    from_millibits: int
    to_millibits: int
    reason: str


@dataclass(frozen=True, slots=True)
class StepFacts:
    """One finished denoising step, as rank 0 knows it. `job_step` counts from 0 over the whole job, `step` from 0 in
    the prompt; counters are since the attempt began, summed over ranks.
    """

    job_step: int
    prompt: str
    step: int
    step_seconds: float
    compute_seconds: float
    max_relative_error: float
    epoch: int
    rates: Mapping[str, int]
    key_frame: bool
    windows: tuple[WindowFacts, ...]
    bytes_sent: int
    bytes_uncompressed: int
    """The same values at the model's own width."""
    bytes_uncompressed_fp16: int
    """The same values at two bytes each."""
    bytes_counted: int
    """Bytes handed to the process group, counted apart from `bytes_sent`."""
    frames_refused: int
    key_frames_forced: int
    base_mismatches: int
    base_memory_bytes: int
    """Largest of the ranks."""
    retunes: tuple[Retune, ...] = ()
    """Applied at the boundary that ended this step: in force from the next step on."""


@dataclass(frozen=True, slots=True)
class Directive:
    """Rates to be used from the next step boundary on. One whose epoch is not above the one in force is ignored."""

    epoch: int
    rates: Mapping[str, int] = field(default_factory=dict)
    reason: str = ""


class StepHooks(Protocol):
    """What rank 0 calls at every step boundary. Neither method may wait."""

    def on_step(self, facts: StepFacts) -> None:
        """Take the facts of a finished step."""

    def newest_directive(self) -> Directive | None:
        """Return the newest directive heard, or None; the same one may be returned again."""


@dataclass(slots=True)
class NoHooks:
    """Hooks that nobody listens to."""

    def on_step(self, facts: StepFacts) -> None:
        """Drop the facts."""

    def newest_directive(self) -> Directive | None:
        """Return nothing."""
        return None


@dataclass(slots=True)
class RecordingHooks:
    """Hooks that keep every fact and hand out prepared directives, one per boundary: for tests and benchmarks."""

    directives: Sequence[Directive | None] = ()
    steps: list[StepFacts] = field(default_factory=list)

    def on_step(self, facts: StepFacts) -> None:
        """Keep the facts."""
        self.steps.append(facts)

    def newest_directive(self) -> Directive | None:
        """Return the directive prepared for this boundary (the first boundary is the end of the first step)."""
        boundary = len(self.steps)
        return self.directives[boundary] if boundary < len(self.directives) else None
