"""One simulated job: the link prices a step's exchanges, reports go to the real tuner, directives return.

Nothing here waits: seconds are numbers. A directive decided on the report of step s holds from step s + 2, as in a real
job, where the broadcast at a step boundary takes one more step.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from thinwire.controller.policy import tuner
from thinwire.controller.policy.reports import Limits, Rung, Step, Window

LADDER = (
    Rung("off", 32000),
    Rung("raw", 32070),
    Rung("int8", 8200, 0.4e-9, 0.3e-9),
    Rung("int4", 4200, 0.4e-9, 0.3e-9),
    Rung("bits3", 3200, 0.6e-9, 0.5e-9),
    Rung("bits2", 2200, 0.5e-9, 0.4e-9),
    Rung("ternary", 1800, 0.5e-9, 0.4e-9),
    Rung("bits1", 1200, 0.5e-9, 0.4e-9),
)
OFF_MILLIBITS = 32000
STEPS_PER_PROMPT = 28
DIRECTIVE_TAKES_STEPS = 2


@dataclass(frozen=True, slots=True)
class Link:
    """What the exchanges of one step meet: throughput, and the fixed cost of each."""

    bytes_per_second: float
    latency_seconds: float = 1e-4
    ulysses_latency_seconds: float | None = None

    def fixed_seconds(self, operation: str) -> float:
        if operation == "ulysses.all_to_all" and self.ulysses_latency_seconds is not None:
            return self.ulysses_latency_seconds
        return self.latency_seconds


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one step exchanges over a link class by one operation, whatever the rate."""

    operation: str
    values: int
    count: int


def even_traffic(values: int) -> tuple[Traffic, ...]:
    """Half of the values by 12 ring exchanges, half by 48 Ulysses exchanges."""
    return Traffic("ring.all_gather", values // 2, 12), Traffic("ulysses.all_to_all", values // 2, 48)


@dataclass(frozen=True, slots=True)
class Delivery:
    """What telemetry suffers: steps whose report or directive is lost, steps of delay, and when no controller is there.

    The first report after `away` meets a new controller, which knows only what a Hello says.
    """

    report_lost: Callable[[int], bool] = lambda step: False
    directive_lost: Callable[[int], bool] = lambda step: False
    late_steps: int = 0
    away: range = range(0)


@dataclass(frozen=True, slots=True)
class Switch:
    """A rate that changed: in force from `step` on."""

    step: int
    link_class: str
    from_millibits: int
    to_millibits: int
    reason: str


@dataclass(frozen=True, slots=True)
class Priced:
    """What one step cost: its windows by link class, and the codec."""

    windows: tuple[Window, ...]
    codec_seconds: float

    @property
    def seconds(self) -> float:
        return self.codec_seconds + sum(window.sum_seconds for window in self.windows)


@dataclass
class Job:
    """Advanced step by step with `advance`; the lists have one entry per step."""

    link_classes: tuple[str, ...]
    limits: Limits
    first_millibits: int = OFF_MILLIBITS
    traffic: tuple[Traffic, ...] = even_traffic(1_500_000)
    delivery: Delivery = Delivery()
    spoil: Callable[[Step], list[Step]] = lambda step: [step]
    error_at: Callable[[Rung], float] = lambda rung: 0.0
    rates: list[dict[str, int]] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    switches: list[Switch] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._in_force = dict.fromkeys(self.link_classes, self.first_millibits)
        self._epoch = 0
        self._leaves_off = False
        self.sent_millibits: dict[str, int] = {}
        self._reports: list[tuple[int, Step]] = []
        self._directives: list[tuple[int, tuner.Directive]] = []
        self.tuner = self._hello()

    @property
    def at(self) -> int:
        """The step that comes next."""
        return len(self.step_seconds)

    @property
    def is_key_frame(self) -> bool:
        """In warm-up, and when a rate has just left "off": residuals need a base."""
        return self._leaves_off or self.at % STEPS_PER_PROMPT < self.limits.warmup_steps

    def begin_step(self) -> dict[str, int]:
        """The rates of the step that comes, after the directives that take hold in it."""
        before = self._in_force
        while self._directives and self._directives[0][0] <= self.at:
            self._obey(self._directives.pop(0)[1])
        self._leaves_off = any(before[name] == OFF_MILLIBITS != rate for name, rate in self._in_force.items())
        whole = dict.fromkeys(self._in_force, OFF_MILLIBITS)
        self.sent_millibits = whole if self.is_key_frame else dict(self._in_force)
        return self.sent_millibits

    def end_step(self, priced: Priced, compute_seconds: float) -> None:
        """Report the step that was begun; `priced` holds its windows."""
        at, total = self.at, compute_seconds + priced.seconds
        errors = [self.error_at(rung_at(rate)) for rate in self._in_force.values()]
        report = Step(
            at,
            at % STEPS_PER_PROMPT,
            total,
            compute_seconds,
            0.0 if self.is_key_frame else max(errors),
            self._epoch,
            tuple(self._in_force.items()),
            self.is_key_frame,
            priced.windows,
        )
        self.rates.append(dict(self._in_force))
        self.epochs.append(self._epoch)
        self.step_seconds.append(total)
        if not self.delivery.report_lost(at) and at not in self.delivery.away:
            self._reports.append((at + self.delivery.late_steps, report))
        if self.delivery.away and at == self.delivery.away.stop:
            self.tuner = self._hello()
        while self._reports and self._reports[0][0] <= at:
            self._hear(self._reports.pop(0)[1], at)

    def advance(
        self, links: Mapping[str, Link], compute_seconds: float, jitter: Callable[[], float] = lambda: 1.0
    ) -> None:
        """One whole step over links of its own."""
        self.end_step(price(self.begin_step(), links, self.traffic, jitter), compute_seconds)

    def switches_between(self, first: int, last: int) -> int:
        return sum(first <= switch.step < last for switch in self.switches)

    def _hello(self) -> tuner.Tuner:
        return tuner.begin(LADDER, self.limits, tuple(self._in_force.items()), self._epoch)

    def _hear(self, step: Step, at: int) -> None:
        for report in self.spoil(step):
            self.tuner, verdict = tuner.after_step(self.tuner, report)
            if verdict.refusal is not None:
                self.refusals.append(verdict.refusal)
            if verdict.directive is not None and not self.delivery.directive_lost(at):
                self._directives.append((at + DIRECTIVE_TAKES_STEPS, verdict.directive))

    def _obey(self, directive: tuner.Directive) -> None:
        if directive.epoch <= self._epoch:
            return
        for link_class, rate in directive.rates:
            before = self._in_force[link_class]
            if rate != before:
                self.switches.append(Switch(self.at, link_class, before, rate, directive.reason))
        self._epoch = directive.epoch
        self._in_force = dict(directive.rates)


def limits(**changed: Any) -> Limits:
    """What most jobs are allowed here."""
    usual = Limits(
        adaptive=True,
        min_millibits=1000,
        max_millibits=16000,
        target_stall_percent=15,
        max_relative_error_milli=0,
        warmup_steps=2,
        steps_per_prompt=STEPS_PER_PROMPT,
    )
    return replace(usual, **changed)


def price(
    rates: Mapping[str, int],
    links: Mapping[str, Link],
    traffic: tuple[Traffic, ...],
    jitter: Callable[[], float] = lambda: 1.0,
) -> Priced:
    """What a step at `rates` millibits by link class costs on `links`; every window is stretched by `jitter()`."""
    windows, codec = [], 0.0
    for link_class, millibits in rates.items():
        for one in traffic:
            windows.append(window_of(link_class, one, millibits, links[link_class], jitter()))
            codec += one.values * rung_at(millibits).codec_seconds_per_value
    return Priced(tuple(windows), codec)


def window_of(link_class: str, traffic: Traffic, millibits: int, link: Link, stretch: float = 1.0) -> Window:
    """The window of one operation whose exchanges all have one size."""
    size = traffic.values * millibits / 8000
    fixed = traffic.count * link.fixed_seconds(traffic.operation)
    return timed_window(link_class, traffic, size, (fixed + size / link.bytes_per_second) * stretch)


def timed_window(link_class: str, traffic: Traffic, size_bytes: float, seconds: float) -> Window:
    """The same where the seconds are known already."""
    count = traffic.count
    return Window(
        link_class,
        traffic.operation,
        count,
        size_bytes,
        seconds,
        size_bytes * size_bytes / count,
        size_bytes * seconds / count,
        values=traffic.values,
    )


def rung_at(millibits: int) -> Rung:
    return min(LADDER, key=lambda rung: abs(rung.millibits - millibits))


def jittered(chance: random.Random, share: float) -> Callable[[], float]:
    """Factors around 1, at most `share` away."""
    return lambda: 1 + share * chance.uniform(-1, 1)
