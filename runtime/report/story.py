"""The event file as a story: attempts with their steps, what became of every prompt, and the totals over all attempts.

Counters in events start again with every attempt, so totals are sums of each attempt's last. Steps of a prompt that was
cut short by a kill are told again by the next attempt: the earlier ones are superseded, their bytes were sent all the
same.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from thinwire.runtime.events import AttemptFinished, AttemptStarted, PromptFinished, Reading, Record
from thinwire.runtime.facts import Retune, StepFacts


@dataclass(frozen=True, slots=True)
class ToldStep:
    """A step, and the bytes that it alone sent over all ranks."""

    attempt_index: int
    facts: StepFacts
    bytes_sent: int
    bytes_uncompressed: int
    bytes_uncompressed_fp16: int


@dataclass(slots=True)
class Attempt:
    """What one attempt left in the file. `finished` is None when it was killed or still runs."""

    index: int
    started_time: float
    last_time: float
    started: AttemptStarted
    finished: AttemptFinished | None = None
    steps: list[ToldStep] = field(default_factory=list)
    retunes: list[Retune] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over all attempts, of all ranks; superseded steps count, for their bytes were sent."""

    bytes_sent: int
    bytes_uncompressed: int
    bytes_uncompressed_fp16: int
    bytes_counted: int
    frames_refused: int
    key_frames_forced: int
    base_mismatches: int


@dataclass(frozen=True, slots=True)
class Story:
    """A job's output folder, told from its events."""

    attempts: tuple[Attempt, ...]
    prompts_finished: Mapping[str, PromptFinished]
    """By name; the last line of a name counts."""
    unreadable_lines: int

    @property
    def last_start(self) -> AttemptStarted | None:
        """What the newest attempt said when it began."""
        return self.attempts[-1].started if self.attempts else None

    @property
    def spec(self) -> Mapping[str, Any]:
        """The newest RunSpec, as protobuf JSON."""
        return self.last_start.spec if self.last_start else {}

    @property
    def is_emulated(self) -> bool:
        """Whether any attempt paced its link."""
        return any(attempt.started.link_is_emulated for attempt in self.attempts)

    @property
    def steps(self) -> tuple[ToldStep, ...]:
        """The step that counts for every job step, in order."""
        latest = {told.facts.job_step: told for told in self.all_steps()}
        return tuple(latest[job_step] for job_step in sorted(latest))

    @property
    def superseded(self) -> tuple[ToldStep, ...]:
        """Steps that a later attempt made again, in the order in which they happened."""
        counting = set(map(id, self.steps))
        return tuple(told for told in self.all_steps() if id(told) not in counting)

    @property
    def retunes(self) -> tuple[Retune, ...]:
        """Every rate change, in the order in which they happened."""
        return tuple(itertools.chain.from_iterable(attempt.retunes for attempt in self.attempts))

    @property
    def totals(self) -> Totals:
        """Sums of the attempts' last counters."""
        lasts = [attempt.steps[-1].facts for attempt in self.attempts if attempt.steps]
        return Totals(*(sum(getattr(last, name) for last in lasts) for name in Totals.__dataclass_fields__))

    @property
    def base_memory_bytes(self) -> int:
        """Most that any rank held for bases at any time, as measured; before the first step, as planned."""
        measured = [told.facts.base_memory_bytes for told in self.all_steps()]
        return max(measured or [attempt.started.base_memory_bytes for attempt in self.attempts], default=0)

    def all_steps(self) -> Iterator[ToldStep]:
        """Every step that any attempt told of, in the order in which they happened."""
        return itertools.chain.from_iterable(attempt.steps for attempt in self.attempts)


def tell(reading: Reading) -> Story:
    """Make a story of an event file; lines before the first attempt's start tell nothing and are passed over."""
    attempts: list[Attempt] = []
    finished: dict[str, PromptFinished] = {}
    for record in reading.records:
        if isinstance(record.event, AttemptStarted):
            attempts.append(Attempt(len(attempts), record.time, record.time, record.event))
        elif attempts:
            _add(attempts[-1], finished, record)
    return Story(tuple(attempts), finished, reading.unreadable_lines)


def _add(attempt: Attempt, finished: dict[str, PromptFinished], record: Record) -> None:
    attempt.last_time = record.time
    match record.event:
        case StepFacts() as facts:
            attempt.steps.append(_told(attempt, facts))
        case Retune() as retune:
            attempt.retunes.append(retune)
        case PromptFinished() as prompt:
            finished[prompt.prompt] = prompt
        case AttemptFinished() as end:
            attempt.finished = end


def _told(attempt: Attempt, facts: StepFacts) -> ToldStep:
    before = attempt.steps[-1].facts if attempt.steps else None

    def alone(name: str) -> int:
        return int(getattr(facts, name) - (getattr(before, name) if before else 0))

    return ToldStep(
        attempt.index, facts, alone("bytes_sent"), alone("bytes_uncompressed"), alone("bytes_uncompressed_fp16")
    )


def link_classes(steps: Iterable[ToldStep]) -> list[str]:
    """Return the link classes of these steps, sorted."""
    return sorted({name for told in steps for name in told.facts.rates})
