"""The plots of a report, over the steps of the whole job: rate, link throughput, relative error, and a step's time."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from thinwire.runtime.report.axis import open_axes
from thinwire.runtime.report.ink import SERIES, STYLE, svg_of
from thinwire.runtime.report.story import Story, ToldStep, link_classes

Value = Callable[[ToldStep], float]
"""Of a step; NaN where it has none."""


@dataclass(frozen=True, slots=True)
class Plot:
    """One drawing and how to read it."""

    key: str
    title: str
    unit: str
    explanation: str
    svg: str


def draw_plots(story: Story) -> list[Plot]:
    """Return all plots; none for a story without steps."""
    if not story.steps:
        return []
    emulated = " The link was emulated." if story.is_emulated else ""
    return [
        _plot(
            story,
            _draw_rate,
            "rate",
            "Rate",
            "bits per value",
            "What the exchange may spend on one number. Steps marked at the bottom are key frames, whole or in"
            f" 8 bits a value.{emulated}",
        ),
        _plot(
            story,
            _draw_throughput,
            "throughput",
            "Link throughput",
            "MB/s of each rank",
            f"Bytes over seconds of a step's exchanges, the fixed cost of an exchange included.{emulated}",
        ),
        _plot(
            story,
            _draw_error,
            "error",
            "Relative error",
            "percent",
            "Largest |x − base| / |x| of any rank and stream in a step. Key frames have none.",
        ),
        _plot(
            story,
            _draw_time,
            "time",
            "Time of a step",
            "seconds",
            f"Computing, and above it what the exchange and the codec add.{emulated}",
        ),
    ]


def _plot(story: Story, draw: Callable[[Axes, Story], None], key: str, title: str, unit: str, explanation: str) -> Plot:
    with mpl.rc_context(dict(STYLE)):
        figure, axes = open_axes(story, unit=unit)
        draw(axes, story)
        if len(axes.get_legend_handles_labels()[1]) > 1:
            axes.legend(loc="upper right", bbox_to_anchor=(1.0, -0.17), ncols=4, borderaxespad=0, handlelength=1.4)
        svg = svg_of(figure, key=key, label=f"{title} in {unit} over the steps of the job")
    return Plot(key, title, unit, explanation, svg)


def _draw_rate(axes: Axes, story: Story) -> None:
    for link_class, ink in zip(link_classes(story.all_steps()), _inks(), strict=False):
        _lines(axes, story, link_class, ink, _rate_of(link_class), stepwise=True)
    rates = [rate / 1000 for told in story.all_steps() for rate in told.facts.rates.values()] or [1.0]
    axes.set_yscale("log", base=2)
    axes.set_ylim(min(1.0, *rates) / 1.25, max(16.0, *rates) * 1.25)
    axes.set_yticks([bits for bits in (0.5, 1, 2, 4, 8, 16, 32) if axes.get_ylim()[0] < bits < axes.get_ylim()[1]])
    _plain_numbers(axes)


def _draw_throughput(axes: Axes, story: Story) -> None:
    pairs = sorted(
        {(window.link_class, window.operation) for told in story.all_steps() for window in told.facts.windows}
    )
    for (link_class, operation), ink in zip(pairs, _inks(), strict=False):
        _lines(axes, story, f"{link_class} {operation}", ink, _throughput_of(link_class, operation))
    phases = _emulated_phases(story)
    if phases:
        axes.step(
            [*(start for start, _ in phases), story.steps[-1].facts.job_step + 0.5],
            [*(rate for _, rate in phases), phases[-1][1]],
            where="post",
            color=mpl.rcParams["xtick.color"],
            linestyle=(0, (4, 3)),
            linewidth=1.2,
            label="emulated link",
        )
    shown = [value for told in story.all_steps() for pair in pairs if (value := _throughput_of(*pair)(told)) > 0]
    if shown and max(shown) > 20 * min(shown):
        axes.set_yscale("log")
        _plain_numbers(axes)
    else:
        axes.set_ylim(bottom=0)


def _draw_error(axes: Axes, story: Story) -> None:
    _lines(axes, story, "largest of all streams", SERIES[0], _error_of)
    ceiling = 0.1 * float(story.spec.get("compression", {}).get("maxRelativeErrorMilli", 0))
    values = [value for told in story.all_steps() if not math.isnan(value := _error_of(told))]
    if ceiling:
        axes.axhline(ceiling, color=mpl.rcParams["xtick.color"], linestyle=(0, (4, 3)), linewidth=1.2, label="ceiling")
        values.append(ceiling)
    if values and max(values) > 20 * min(values):
        axes.set_yscale("log")
        _plain_numbers(axes)
    else:
        axes.set_ylim(0, 1.15 * max(values, default=1.0))


def _draw_time(axes: Axes, story: Story) -> None:
    runs = _runs(story.steps)
    for number, run in enumerate(runs):
        x = [told.facts.job_step + offset for told in run for offset in (-0.5, 0.5)]
        computing = [told.facts.compute_seconds for told in run for _ in range(2)]
        whole = [max(told.facts.step_seconds, told.facts.compute_seconds) for told in run for _ in range(2)]
        labels = ("computing", "exchange and codec") if number == 0 else (None, None)
        axes.fill_between(x, 0, computing, color=SERIES[0].value, linewidth=0, label=labels[0])
        axes.fill_between(x, computing, whole, color=SERIES[1].value, linewidth=0, label=labels[1])
    axes.set_ylim(bottom=0)


def _lines(axes: Axes, story: Story, label: str, ink: str, value: Value, *, stepwise: bool = False) -> None:
    """Draw one series: the steps that count as a line, and fainter those that were made again."""
    style: dict[str, Any] = {"drawstyle": "steps-mid"} if stepwise else {}
    for attempt in story.attempts:
        again = [told for told in story.superseded if told.attempt_index == attempt.index]
        for run in _runs(again):
            axes.plot(*_points(run, value), color=ink, alpha=0.35, linewidth=1.2, **style)
    x: list[float] = []
    y: list[float] = []
    for run in _runs(story.steps):
        run_x, run_y = _points(run, value)
        x += [*run_x, math.nan]
        y += [*run_y, math.nan]
    marker: dict[str, Any] = {"marker": "o", "markersize": 3.2} if len(story.steps) <= 60 and not stepwise else {}
    axes.plot(x, y, color=ink, label=label, **style, **marker)


def _runs(steps: Iterable[ToldStep]) -> list[list[ToldStep]]:
    """Return stretches without a hole: a step that is not the next one begins a new stretch."""
    runs: list[list[ToldStep]] = []
    for told in steps:
        if runs and told.facts.job_step == runs[-1][-1].facts.job_step + 1:
            runs[-1].append(told)
        else:
            runs.append([told])
    return runs


def _points(run: Sequence[ToldStep], value: Value) -> tuple[list[float], list[float]]:
    return [float(told.facts.job_step) for told in run], [value(told) for told in run]


def _rate_of(link_class: str) -> Value:
    return lambda told: told.facts.rates.get(link_class, math.nan) / 1000


def _throughput_of(link_class: str, operation: str) -> Value:
    def megabytes_per_second(told: ToldStep) -> float:
        seconds = total_bytes = 0.0
        for window in told.facts.windows:
            if (window.link_class, window.operation) == (link_class, operation):
                seconds += window.sum_seconds
                total_bytes += window.sum_bytes
        return total_bytes / seconds / 1e6 if seconds else math.nan

    return megabytes_per_second


def _error_of(told: ToldStep) -> float:
    error = told.facts.max_relative_error
    return 100 * error if error > 0 and math.isfinite(error) else math.nan


def _emulated_phases(story: Story) -> list[tuple[float, float]]:
    """Return from which step on the link was paced to how many megabytes per second."""
    if not story.is_emulated:
        return []
    phases = story.spec.get("emulatedLink", [])
    return sorted((phase.get("fromStep", 0) - 0.5, int(phase.get("bitsPerSecond", 0)) / 8e6) for phase in phases)


def _inks() -> list[str]:
    return [ink.value for ink in SERIES]


def _plain_numbers(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
