"""What jobs meet: links by step, made up or recorded, and what telemetry suffers meanwhile."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.simulator.job import Delivery, Link, Traffic, even_traffic

STEPS = 280
RECORDING = Path(__file__).resolve().parent.parent / "traces/busy_laptop.csv"
_LATENCY = 2e-4
_TRAFFIC = even_traffic(1_500_000)
FAST, SLOW = Link(500e6, _LATENCY), Link(50e6, _LATENCY)

Trace = Callable[[int], Link]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One row of the table. `drops_at`: the step of a tenfold drop whose answer is counted in steps."""

    name: str
    traces: Mapping[str, Trace]
    computing: Callable[[int], float] = lambda step: 0.25
    delivery: Callable[[Callable[[], float]], Delivery] = lambda chance: Delivery()
    traffic: tuple[Traffic, ...] = _TRAFFIC
    drops_at: int | None = None
    is_steady: bool = False
    steps: int = STEPS


@dataclass(frozen=True, slots=True)
class Moment:
    """One recorded step of four ranks on two cores that other work kept busy."""

    compute_seconds: float
    ring_latency_seconds: float
    ulysses_latency_seconds: float


def busy_laptop() -> list[Moment]:
    """The recorded machine, step by step."""
    rows = csv.DictReader(RECORDING.read_text().splitlines())
    names = ("compute_seconds", "ring_latency_seconds", "ulysses_latency_seconds")
    return [Moment(*(float(row[name]) for name in names)) for row in rows]


def scenarios() -> list[Scenario]:
    """All of them, in the order of the table."""
    return [*_steady(), *_fixed_costs(), *_changing(), *_telemetry(), *_recorded()]


def _one(name: str, trace: Trace, **more: object) -> Scenario:
    return Scenario(name, {"intra-node": trace}, **more)  # type: ignore[arg-type]


def _steady() -> list[Scenario]:
    return [
        _one(f"steady, {megabytes} MB/s", _always(Link(megabytes * 1e6, _LATENCY)), is_steady=True)
        for megabytes in (2, 5, 10, 20, 50, 100, 200, 1000)
    ]


def _fixed_costs() -> list[Scenario]:
    rows = [
        _one(
            f"fixed cost {milliseconds} ms, {megabytes} MB/s",
            _always(Link(megabytes * 1e6, milliseconds / 1e3)),
            is_steady=True,
        )
        for milliseconds in (1, 2, 4)
        for megabytes in (20, 250)
    ]
    little = even_traffic(20_000)
    rows.append(_one("app-limited", _drop(70, STEPS), traffic=little, is_steady=True))
    return rows


def _changing() -> list[Scenario]:
    return [
        _one("step, tenfold drop for 4.5 prompts", _drop(70, 196), drops_at=70),
        _one("ramp, hundredfold down and up", _ramp),
        *(_one(f"saw-tooth, {period} steps", _saw_tooth(period)) for period in (6, 20, 40, 90)),
        *(_one(f"square wave, {period} steps", _square_wave(period)) for period in (12, 28, 80)),
        _one("burst of 1 step every 17", lambda step: Link(20e6, _LATENCY) if step % 17 == 9 else FAST),
        _one("burst of 5 steps every 56", lambda step: SLOW if step % 56 in range(40, 45) else FAST),
        Scenario(
            "straggler: inter-node of two classes",
            {"inter-node": _drop(70, 196, Link(200e6, _LATENCY), Link(20e6, _LATENCY)), "intra-node": _always(_NEAR)},
            drops_at=70,
        ),
    ]


def _telemetry() -> list[Scenario]:
    drop = _drop(70, 196)
    return [
        _one("lossy telemetry: 30 % of reports and directives", drop, delivery=_lossy, drops_at=70),
        _one("late telemetry: 4 steps", drop, delivery=lambda chance: Delivery(late_steps=4), drops_at=70),
        _one("controller away for 60 steps", drop, delivery=lambda chance: Delivery(away=range(60, 120)), drops_at=70),
    ]


def _recorded() -> list[Scenario]:
    recorded = busy_laptop()

    def row(name: str, beta: Callable[[int], float], **more: object) -> Scenario:
        def link(step: int) -> Link:
            moment = recorded[step % len(recorded)]
            return Link(beta(step), moment.ring_latency_seconds, moment.ulysses_latency_seconds)

        def computing(step: int) -> float:
            return recorded[step % len(recorded)].compute_seconds

        return _one(name, link, computing=computing, steps=len(recorded), **more)

    return [
        row("recorded busy machine, 250 MB/s", lambda step: 250e6, is_steady=True),
        row("recorded busy machine, 10 MB/s", lambda step: 10e6, is_steady=True),
        row("recorded busy machine, hundredfold drop", lambda step: 2.5e6 if 84 <= step < 150 else 250e6, drops_at=84),
    ]


_NEAR = Link(4e9, 1e-5)


def _always(link: Link) -> Trace:
    return lambda step: link


def _drop(at: int, back_at: int, before: Link = FAST, after: Link = SLOW) -> Trace:
    return lambda step: after if at <= step < back_at else before


def _ramp(step: int) -> Link:
    down = min(max(step - 30, 0), 100) - min(max(step - 150, 0), 100)
    return Link(500e6 * 10 ** (-down / 50), _LATENCY)


def _saw_tooth(period: int) -> Trace:
    return lambda step: Link(500e6 / (1 + 20 * (step % period) / period), _LATENCY)


def _square_wave(period: int) -> Trace:
    return lambda step: SLOW if math.floor(2 * step / period) % 2 else FAST


def _lossy(chance: Callable[[], float]) -> Delivery:
    return Delivery(report_lost=lambda step: chance() < 0.3, directive_lost=lambda step: chance() < 0.3)
