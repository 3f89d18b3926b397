"""A small job on made-up links that drives the real estimator and law, step by step, without time or processes."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

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


@dataclass(frozen=True)
class Link:
    bytes_per_second: float
    latency_seconds: float = 1e-4


Trace = Callable[[int], Link]


@dataclass
class Run:
    """What happened: one entry per step."""

    rates: list[dict[str, int]] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    switches: list[tuple[int, str, str]] = field(default_factory=list)
    final: tuner.Tuner | None = None

    def switches_between(self, first: int, last: int) -> int:
        return sum(first <= at < last for at, _, _ in self.switches)


def limits(**changed: int | bool) -> Limits:
    settings = {
        "adaptive": True,
        "min_millibits": 1000,
        "max_millibits": 16000,
        "target_stall_percent": 15,
        "max_relative_error_milli": 0,
        "warmup_steps": 2,
        "steps_per_prompt": STEPS_PER_PROMPT,
    }
    return Limits(**(settings | changed))  # type: ignore[arg-type]


def window(
    link_class: str, operation: str, count: int, values: int, millibits: int, link: Link, noise: float
) -> Window:
    size = values * millibits / 8000
    seconds = (count * link.latency_seconds + size / link.bytes_per_second) * noise
    return Window(
        link_class, operation, count, size, seconds, size * size / count, size * seconds / count, values=values
    )


def rung_at(millibits: int) -> Rung:
    return min(LADDER, key=lambda rung: abs(rung.millibits - millibits))


def simulate(
    traces: dict[str, Trace] | Trace,
    *,
    steps: int = 200,
    compute_seconds: float = 0.25,
    first_millibits: int = OFF_MILLIBITS,
    noise: float = 0.0,
    seed: int = 0,
    directive_lost: Callable[[int], bool] = lambda step: False,
    spoil: Callable[[Step], list[Step]] = lambda step: [step],
    error_at: Callable[[Rung], float] = lambda rung: 0.0,
    values: int = 1_500_000,
    **limit: int | bool,
) -> Run:
    """Run `steps` steps; a directive decided on the report of step s holds from step s + 2, as in a real job."""
    chance = random.Random(seed)
    classes = traces if isinstance(traces, dict) else {"intra-node": traces}
    rates = dict.fromkeys(classes, first_millibits)
    state = tuner.begin(LADDER, limits(**limit), tuple(rates.items()), 0)
    run, epoch, coming = Run(), 0, []
    warmup = state.limits.warmup_steps
    for at in range(steps):
        while coming and coming[0][0] <= at:
            directive = coming.pop(0)[1]
            if directive.epoch > epoch:
                before, rates, epoch = rates, dict(directive.rates), directive.epoch
                run.switches += [(at, name, directive.reason) for name in rates if rates[name] != before[name]]
        key_frame = at % STEPS_PER_PROMPT < warmup
        windows, codec = [], 0.0
        for name, trace in classes.items():
            millibits = OFF_MILLIBITS if key_frame else rates[name]
            rung = rung_at(millibits)
            for operation, share, count in (("ring.all_gather", 0.5, 12), ("ulysses.all_to_all", 0.5, 48)):
                jitter = 1 + noise * chance.uniform(-1, 1)
                windows.append(window(name, operation, count, int(values * share), millibits, trace(at), jitter))
                codec += int(values * share) * rung.codec_seconds_per_value
        computing = compute_seconds * (1 + noise * chance.uniform(-0.3, 0.3))
        total = computing + codec + sum(one.sum_seconds for one in windows)
        error = 0.0 if key_frame else max(error_at(rung_at(rate)) for rate in rates.values())
        step = Step(
            at, at % STEPS_PER_PROMPT, total, computing, error, epoch, tuple(rates.items()), key_frame, tuple(windows)
        )
        for report in spoil(step):
            state, verdict = tuner.after_step(state, report)
            if verdict.directive is not None and not directive_lost(at):
                coming.append((at + 2, verdict.directive))
        run.rates.append(dict(rates))
        run.step_seconds.append(total)
        run.epochs.append(epoch)
    run.final = state
    return run
