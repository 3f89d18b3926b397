"""What one rank tells all others at a step boundary, as one vector of float64.

Counts and checksums stay below 2**53 and so are exact. Everything that later decides anything is in here, so that every
rank decides from the same numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy
from numpy.typing import NDArray

from thinwire.runtime.exchange.meter import Operation, StepMeter
from thinwire.runtime.facts import Directive
from thinwire.runtime.parallel import LinkClass

Vector = NDArray[numpy.float64]
_NO_RATE = -1.0


@dataclass(frozen=True, slots=True)
class StepTotals:
    """One rank's step, in one number each."""

    step_seconds: float
    compute_seconds: float
    max_relative_error: float
    frames_refused: float
    sent_bytes: float
    values: float
    uncompressed_bytes: float
    counted_bytes: float
    base_bytes: float

    @classmethod
    def measured(cls, meter: StepMeter, step_seconds: float, base_bytes: int) -> "StepTotals":
        """Read a meter at the end of a step."""
        return cls(
            step_seconds=step_seconds,
            compute_seconds=max(0.0, step_seconds - meter.exchange_seconds),
            max_relative_error=meter.max_relative_error,
            frames_refused=meter.frames_refused,
            sent_bytes=meter.sent_bytes,
            values=meter.values,
            uncompressed_bytes=meter.uncompressed_bytes,
            counted_bytes=meter.counted_bytes,
            base_bytes=base_bytes,
        )


@dataclass(frozen=True, slots=True)
class RankReport:
    """One rank's step, whole.

    sent_checksums[r], heard_checksums[r]: of all bases of streams to and from rank r, or zeros in steps that do not
    check. encode_seconds, decode_seconds: by operation. durations: of every collective of the step, in order, seconds.
    """

    totals: StepTotals
    directive: Directive | None
    sent_checksums: Sequence[float]
    heard_checksums: Sequence[float]
    encode_seconds: Sequence[float]
    decode_seconds: Sequence[float]
    durations: Sequence[float]

    def to_vector(self) -> Vector:
        """Lay everything side by side."""
        totals = [float(getattr(self.totals, field.name)) for field in fields(StepTotals)]
        return numpy.array(
            [
                *totals,
                *_directive_numbers(self.directive),
                *self.sent_checksums,
                *self.heard_checksums,
                *self.encode_seconds,
                *self.decode_seconds,
                *self.durations,
            ],
            dtype=numpy.float64,
        )

    @classmethod
    def from_vector(cls, vector: Vector, world_size: int) -> "RankReport":
        """Read what `to_vector` laid out; the directive comes without its reason, which rank 0 alone knows."""
        numbers = iter(vector.tolist())

        def take(count: int) -> list[float]:
            return [next(numbers) for _ in range(count)]

        return cls(
            totals=StepTotals(*take(len(fields(StepTotals)))),
            directive=_directive(take(1 + len(LinkClass))),
            sent_checksums=take(world_size),
            heard_checksums=take(world_size),
            encode_seconds=take(len(Operation)),
            decode_seconds=take(len(Operation)),
            durations=list(numbers),
        )


def count_mismatches(reports: Sequence[RankReport]) -> int:
    """Return for how many ordered pairs of ranks the bases at both ends differ."""
    return sum(
        reports[source].sent_checksums[destination] != reports[destination].heard_checksums[source]
        for source in range(len(reports))
        for destination in range(len(reports))
        if source != destination
    )


def _directive_numbers(directive: Directive | None) -> list[float]:
    if directive is None:
        return [0.0, *(_NO_RATE for _ in LinkClass)]
    return [float(directive.epoch), *(float(directive.rates.get(link, _NO_RATE)) for link in LinkClass)]


def _directive(numbers: Sequence[float]) -> Directive | None:
    epoch = int(numbers[0])
    if epoch == 0:
        return None
    rates = {str(link): int(rate) for link, rate in zip(LinkClass, numbers[1:], strict=True) if rate >= 0}
    return Directive(epoch, rates)
