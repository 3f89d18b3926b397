"""What is known and remembered of one job's links and rates: values, made anew by every step."""

from __future__ import annotations

from dataclasses import dataclass

from thinwire.controller.policy.forecast import Operation
from thinwire.controller.policy.law import Hysteresis
from thinwire.controller.policy.reports import Limits, Rung


@dataclass(frozen=True, slots=True)
class Link:
    """What is known and remembered of one link class."""

    link_class: str
    millibits: int
    operations: tuple[Operation, ...] = ()
    memory: Hysteresis = Hysteresis()  # noqa: RUF009 - frozen, so sharing it is safe

    @property
    def bytes_per_second(self) -> float:
        """Throughput of the operation that moves most; 0 while unknown."""
        busiest = self._busiest()
        return busiest.estimate.bytes_per_second if busiest else 0.0

    @property
    def latency_seconds(self) -> float:
        """Fixed cost of one exchange of that operation; 0 while unknown."""
        busiest = self._busiest()
        return busiest.estimate.alpha_seconds if busiest else 0.0

    def _busiest(self) -> Operation | None:
        known = [operation for operation in self.operations if operation.estimate.known]
        return max(known, key=lambda operation: operation.values, default=None)


@dataclass(frozen=True, slots=True)
class Directive:
    """Rates for all link classes from the next step boundary on, and why."""

    epoch: int
    rates: tuple[tuple[str, int], ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The law's answer to one step: a directive if anything changes; a reason, empty while it still learns."""

    directive: Directive | None
    reason: str
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class Tuner:
    """State of one attempt's tuning. Made by `begin`, moved on by `after_step`."""

    ladder: tuple[Rung, ...]
    limits: Limits
    links: tuple[Link, ...]
    epoch: int
    last_job_step: int = -1
    leapt_to_job_step: int | None = None
    steps_seen: int = 0
    compute_seconds: tuple[float, ...] = ()
    exposed_share: float = 1.0
    codec_factor: float = 1.0
    barred_millibits: int = 0
    barred_until_job_step: int = -1
    sent: Directive | None = None
    sent_at_job_step: int = -1


def rung_at(tuner: Tuner, millibits: int | None) -> Rung | None:
    """Return the ladder's rung that comes closest to a rate."""
    if millibits is None:
        return None
    return min(tuner.ladder, key=lambda rung: abs(rung.millibits - millibits), default=None)
