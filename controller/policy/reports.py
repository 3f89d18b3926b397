"""What the law is told: a ladder and limits once, then one report per step. Nothing here knows gRPC."""

from __future__ import annotations

import math
from dataclasses import dataclass

OFF = "off"

_LONGEST_STEP_SECONDS = 86_400.0
_LARGEST_WINDOW_BYTES = 1e15
_SHORTEST_EXCHANGE_SECONDS = 1e-9
_ROUNDING = 1e-6
_FEWEST_BITS_PER_VALUE = 0.01
_COMPUTING_WITHIN_STEP = 2.0
_CLOCK_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Rung:
    """One choice of the law; `millibits` travel for one value, scales and headers included."""

    name: str
    millibits: int
    encode_seconds_per_value: float = 0.0
    decode_seconds_per_value: float = 0.0
    distortion: float = 0.0

    @property
    def loss(self) -> tuple[float, int]:
        """What rungs are ordered by: the share of energy lost, then the bits, where nobody says or it is the same."""
        return self.distortion, -self.millibits

    @property
    def codec_seconds_per_value(self) -> float:
        """Encoding and decoding together."""
        return self.encode_seconds_per_value + self.decode_seconds_per_value


@dataclass(frozen=True, slots=True)
class Limits:
    """What the job's owner allows, and where in a prompt the rate is frozen."""

    adaptive: bool
    min_millibits: int
    max_millibits: int
    target_stall_percent: int
    max_relative_error_milli: int
    warmup_steps: int
    steps_per_prompt: int


@dataclass(frozen=True, slots=True)
class Window:
    """Sufficient statistics of one step's exchanges of one operation over one link class."""

    link_class: str
    operation: str
    count: int
    sum_bytes: float
    sum_seconds: float
    sum_bytes_squared: float = 0.0
    sum_bytes_seconds: float = 0.0
    encode_seconds: float = 0.0
    decode_seconds: float = 0.0
    values: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a job as rank 0 saw it. `rates` are (link class, millibits) pairs in force during the step."""

    job_step: int
    step: int
    step_seconds: float
    compute_seconds: float
    max_relative_error: float
    epoch: int
    rates: tuple[tuple[str, int], ...]
    key_frame: bool
    windows: tuple[Window, ...]

    def rate_of(self, link_class: str) -> int | None:
        """Millibits in force over `link_class`, or None where the report does not say."""
        return next((millibits for name, millibits in self.rates if name == link_class), None)


def refusal_of_window(window: Window) -> str | None:
    """Why this window cannot be believed, in a few fixed words (they name a counter), or None."""
    figures = (
        window.sum_bytes,
        window.sum_seconds,
        window.sum_bytes_squared,
        window.sum_bytes_seconds,
        window.encode_seconds,
        window.decode_seconds,
    )
    if not all(math.isfinite(figure) for figure in figures):
        return "window not finite"
    if min(figures) < 0 or window.values < 0:
        return "window negative"
    if window.count <= 0 or window.sum_bytes <= 0:
        return "window empty"
    if window.sum_seconds < _SHORTEST_EXCHANGE_SECONDS * window.count:
        return "window faster than any link"
    seconds = max(window.sum_seconds, window.encode_seconds, window.decode_seconds)
    if seconds > _LONGEST_STEP_SECONDS or window.sum_bytes > _LARGEST_WINDOW_BYTES:
        return "window absurd"
    if window.values * _FEWEST_BITS_PER_VALUE > 8 * window.sum_bytes:
        return "window absurd"
    return None if _sums_agree(window) else "window inconsistent"


def _sums_agree(window: Window) -> bool:
    """Squares and products of positive figures lie between what equal ones and what a single one would give."""
    squared, product = window.sum_bytes_squared, window.sum_bytes_seconds
    most_squared, most_product = window.sum_bytes**2, window.sum_bytes * window.sum_seconds
    if squared and not most_squared * (1 - _ROUNDING) <= squared * window.count:
        return False
    return squared <= most_squared * (1 + _ROUNDING) and product <= most_product * (1 + _ROUNDING)


def refusal_of_step(step: Step, last_job_step: int) -> str | None:
    """Why this step cannot be believed, or None. Steps must come in order; one seen before is refused."""
    figures = (step.step_seconds, step.compute_seconds, step.max_relative_error)
    if not all(math.isfinite(figure) for figure in figures):
        return "step not finite"
    if min(figures) < 0 or step.job_step < 0 or step.step < 0:
        return "step negative"
    if max(step.step_seconds, step.compute_seconds) > _LONGEST_STEP_SECONDS:
        return "step absurd"
    if step.job_step <= last_job_step:
        return "step out of order"
    if step.compute_seconds > _COMPUTING_WITHIN_STEP * step.step_seconds + _CLOCK_SECONDS:
        return "step shorter than its computing"
    if len({(window.link_class, window.operation) for window in step.windows}) < len(step.windows):
        return "window twice"
    if len({name for name, _ in step.rates}) < len(step.rates):
        return "rate twice"
    return next((why for why in map(refusal_of_window, step.windows) if why is not None), None)


def refusal_of_ladder(ladder: tuple[Rung, ...]) -> str | None:
    """Why a runtime's ladder cannot be used, or None."""
    if not ladder:
        return "ladder empty"
    for rung in ladder:
        costs = (rung.encode_seconds_per_value, rung.decode_seconds_per_value)
        if not 0 < rung.millibits <= 1_000_000 or not all(math.isfinite(cost) and 0 <= cost < 1 for cost in costs):
            return "ladder absurd"
    return None
