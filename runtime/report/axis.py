"""The horizontal axis that all plots of a report share: steps of the job, with what happened along them.

Bands and names are prompts; numbered flags are rate changes, explained in a table beside the plots; ticks along the
bottom are key frames; a dashed line is where a later attempt took over.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from thinwire.runtime.report.ink import Ink
from thinwire.runtime.report.story import Story

WIDTH_INCHES, HEIGHT_INCHES = 10.0, 2.9
_LEFT, _RIGHT, _BOTTOM, _TOP = 0.075, 0.99, 0.19, 0.80
_NAME_POINTS = 8.5
_NAMES_AT, _FLAGS_AT = 1.19, 1.07
_MOST_FLAGS = 40


def open_axes(story: Story, *, unit: str) -> tuple[Figure, Axes]:
    """Return a figure with the shared axis drawn, for a story with at least one step."""
    figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES))
    axes = figure.add_axes((_LEFT, _BOTTOM, _RIGHT - _LEFT, _TOP - _BOTTOM))
    first, last = story.steps[0].facts.job_step, story.steps[-1].facts.job_step
    axes.set_xlim(first - 0.5, last + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
    axes.tick_params(axis="x", pad=7)
    axes.set_xlabel("step of the job", loc="left")
    axes.set_ylabel(unit)
    _draw_prompts(axes, story)
    _draw_key_frames(axes, story)
    _draw_retunes(axes, story)
    _draw_attempts(axes, story)
    return figure, axes


def _draw_prompts(axes: Axes, story: Story) -> None:
    runs = [
        (name, [told.facts.job_step for told in run])
        for name, run in groupby(story.steps, key=lambda told: told.facts.prompt)
    ]
    span = story.steps[-1].facts.job_step - story.steps[0].facts.job_step + 1
    inches_per_step = WIDTH_INCHES * (_RIGHT - _LEFT) / span
    for number, (name, job_steps) in enumerate(runs):
        start, end = job_steps[0] - 0.5, job_steps[-1] + 0.5
        if number % 2:
            axes.axvspan(start, end, color=Ink.BAND.value, linewidth=0)
        letters = int((end - start) * inches_per_step * 72 / (0.56 * _NAME_POINTS))
        if letters >= 4:
            axes.text(
                (start + end) / 2,
                _NAMES_AT,
                name if len(name) <= letters else name[: letters - 1] + "…",
                transform=axes.get_xaxis_transform(),
                ha="center",
                va="center",
                fontsize=_NAME_POINTS,
                color=Ink.MUTED.value,
                parse_math=False,
            )


def _draw_key_frames(axes: Axes, story: Story) -> None:
    whole = [told.facts.job_step for told in story.steps if told.facts.key_frame]
    axes.plot(
        whole,
        [0.0] * len(whole),
        transform=axes.get_xaxis_transform(),
        linestyle="none",
        marker="|",
        markersize=9,
        markeredgewidth=1.2,
        color=Ink.MUTED.value,
        clip_on=False,
        zorder=1,
    )


def _draw_retunes(axes: Axes, story: Story) -> None:
    flags: defaultdict[int, list[int]] = defaultdict(list)
    for number, retune in enumerate(story.retunes, start=1):
        flags[retune.job_step].append(number)
    for job_step, numbers in flags.items():
        axes.axvline(job_step - 0.5, color=Ink.TEXT.value, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1.5)
        if len(flags) <= _MOST_FLAGS:
            axes.text(
                job_step - 0.5,
                _FLAGS_AT,
                _numbers(numbers),
                transform=axes.get_xaxis_transform(),
                ha="center",
                va="center",
                fontsize=8,
                color=Ink.SURFACE.value,
                bbox={"boxstyle": "round,pad=0.25", "facecolor": Ink.TEXT.value, "edgecolor": "none"},
            )


def _numbers(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}–{numbers[-1]}"


def _draw_attempts(axes: Axes, story: Story) -> None:
    for attempt in story.attempts[1:]:
        if not attempt.steps:
            continue
        start = attempt.steps[0].facts.job_step - 0.5
        axes.axvline(start, color=Ink.ALARM.value, linewidth=1.2, linestyle=(0, (4, 2)), zorder=1.6)
        axes.annotate(
            f"start {attempt.index + 1}",
            (start, 1),
            xycoords=axes.get_xaxis_transform(),
            xytext=(4, -4),
            textcoords="offset points",
            va="top",
            fontsize=8,
            color=Ink.ALARM.value,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": Ink.SURFACE.value, "edgecolor": "none"},
        )
