"""What one rank tells all others at a step boundary, as one vector of float64.

Counts and checksums stay below 2**53 and so are exact. Everything that later decides anything is in here, so that every
rank decides from the same numbers. Ranks may have run different transfers, or none: the vector has room for the most.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy
from numpy.typing import NDArray

from thinwire.runtime.exchange.meter import Operation, Sample, StepMeter
from thinwire.runtime.facts import Directive
from thinwire.runtime.parallel import LinkClass

Vector = NDArray[numpy.float64]
_NO_RATE = -1.0
_OPERATIONS = list(Operation)
_COLUMNS = 5
"""Of a transfer: operation, bytes, values, seconds, seconds waited for."""


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


def transfers_of(samples: Sequence[Sample]) -> Vector:
    """Return the transfers of a step, [n, 5], in the order in which they ended."""
    rows = [
        (_OPERATIONS.index(sample.operation), sample.sent_bytes, sample.values, sample.seconds, sample.waited_seconds)
        for sample in samples
    ]
    return numpy.array(rows, dtype=numpy.float64).reshape(-1, _COLUMNS)


@dataclass(frozen=True, slots=True)
class RankReport:
    """One rank's step, whole.

    sent_checksums[r], heard_checksums[r]: of all bases of streams to and from rank r, or zeros in steps that do not
    check. encode_seconds, decode_seconds: by operation. transfers: see `transfers_of`.
    """

    totals: StepTotals
    directive: Directive | None
    sent_checksums: Sequence[float]
    heard_checksums: Sequence[float]
    encode_seconds: Sequence[float]
    decode_seconds: Sequence[float]
    transfers: Vector

    def of(self, operation: Operation) -> Vector:
        """Return bytes, values, seconds and seconds waited for ([n, 4]) of this operation's transfers."""
        mine = self.transfers[:, 0] == _OPERATIONS.index(operation)
        return self.transfers[mine, 1:]

    def to_vector(self, most_transfers: int) -> Vector:
        """Lay everything side by side, with room for so many transfers.

        Raises:
            RuntimeError: there were more.
        """
        count = len(self.transfers)
        if count > most_transfers:
            raise RuntimeError(f"expected at most {most_transfers} transfers in a step, got {count}: report this")
        totals = [float(getattr(self.totals, field.name)) for field in fields(StepTotals)]
        numbers = [
            *totals,
            *_directive_numbers(self.directive),
            *self.sent_checksums,
            *self.heard_checksums,
            *self.encode_seconds,
            *self.decode_seconds,
            float(count),
        ]
        vector = numpy.zeros(len(numbers) + most_transfers * _COLUMNS, dtype=numpy.float64)
        vector[: len(numbers)] = numbers
        vector[len(numbers) : len(numbers) + self.transfers.size] = self.transfers.ravel()
        return vector

    @classmethod
    def from_vector(cls, vector: Vector, world_size: int) -> "RankReport":
        """Read what `to_vector` laid out; the directive comes without its reason, which rank 0 alone knows."""
        begin = 0

        def take(count: int) -> list[float]:
            nonlocal begin
            begin += count
            taken: list[float] = vector[begin - count : begin].tolist()
            return taken

        totals = StepTotals(*take(len(fields(StepTotals))))
        directive = _directive(take(1 + len(LinkClass)))
        sent, heard = take(world_size), take(world_size)
        encode, decode = take(len(Operation)), take(len(Operation))
        (count,) = take(1)
        transfers = vector[begin : begin + int(count) * _COLUMNS].reshape(-1, _COLUMNS)
        return cls(totals, directive, sent, heard, encode, decode, transfers)


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
