"""What a job runs on, as the cost model sees it: given, measured by an earlier run, or assumed.

docs/planner.md has the formulas and where the assumed figures come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from thinwire.controller.planner.layout import LinkClass
from thinwire.controller.planner.traffic import Attention

_CPU_FLOPS = 25e9
_GPU_FLOPS = 150e12
_CPU_LINK = (2e9, 1e-4)
_GPU_INTRA_NODE_LINK = (150e9, 3e-5)
_GPU_INTER_NODE_LINK = (10e9, 1e-4)
_CPU_CODEC_SECONDS_PER_VALUE = 3e-9
_GPU_CODEC_SECONDS_PER_VALUE = 2e-11
_MLP_RATIO = 4


class Source(StrEnum):
    """Where a figure comes from."""

    GIVEN = "given"
    MEASURED = "measured"
    ASSUMED = "assumed"


@dataclass(frozen=True, slots=True)
class Link:
    """An exchange of b bytes takes fixed_seconds + b / bytes_per_second on a rank's way to its peers."""

    bytes_per_second: float
    fixed_seconds: float
    source: Source


@dataclass(frozen=True, slots=True)
class Machine:
    """What one rank needs alone for a step of one picture, what joins ranks, and what coding a value costs."""

    step_seconds: float
    step_source: Source
    links: Mapping[LinkClass, Link]
    codec_seconds_per_value: float


def step_flops(attention: Attention) -> float:
    """Estimate the floating-point operations of a step: projections, feed-forward and attention, of every token.

    A block of width d has 4 d^2 weights around attention and 2 * 4 d^2 in its feed-forward; a weight costs two
    operations a token, attention 4 d a pair of tokens (Kaplan et al. 2020, section 2.1).
    """
    width = attention.heads * attention.head_dim
    tokens = attention.image_tokens + attention.text_tokens
    weights = (4 + 2 * _MLP_RATIO) * width * width
    of_a_layer = 2 * weights * tokens + 4 * width * tokens * tokens
    return float(attention.layers * attention.batch * attention.forwards * of_a_layer)


def assumed(attention: Attention, *, on_cpu: bool) -> Machine:
    """Return what is assumed where nobody has measured."""
    within, between = (_CPU_LINK, _CPU_LINK) if on_cpu else (_GPU_INTRA_NODE_LINK, _GPU_INTER_NODE_LINK)
    links = {
        LinkClass.INTRA_NODE: Link(*within, Source.ASSUMED),
        LinkClass.INTER_NODE: Link(*between, Source.ASSUMED),
    }
    flops = _CPU_FLOPS if on_cpu else _GPU_FLOPS
    codec = _CPU_CODEC_SECONDS_PER_VALUE if on_cpu else _GPU_CODEC_SECONDS_PER_VALUE
    return Machine(step_flops(attention) / flops, Source.ASSUMED, links, codec)


def measured(machine: Machine, report: Mapping[str, Any], *, same_shape: bool = True) -> Machine:
    """Return `machine` with what a run's report.json says: computing, links and codec.

    The computing of a rank, times the ranks that shared a picture, is that of one rank alone. `same_shape` says whether
    that run's pictures and model are this job's; otherwise its computing says nothing.

    Raises:
        ValueError: not such a report, or one without steps.
    """
    try:
        degrees = report["spec"]["parallelism"]
        shared = 1
        for name in ("ulysses", "ring", "pipefusion", "cfg"):
            shared *= int(degrees.get(name, 1) or 1)
        compute = report["time"]["median_compute_seconds"]
        coded = [rung for rung in report["ladder"] if rung["encode_seconds_per_value"] > 0]
        links = dict(machine.links)
        for link_class in LinkClass:
            windows = [
                window
                for step in report["steps"]
                for window in step["windows"]
                if window["link_class"] == link_class.value
            ]
            if (line := _line(windows)) is not None:
                links[link_class] = line
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"expected report.json of a run, got one without {error}") from error
    if compute is None:
        raise ValueError("expected report.json of a run with steps, got none")
    codec = [rung["encode_seconds_per_value"] + rung["decode_seconds_per_value"] for rung in coded]
    return Machine(
        step_seconds=compute * shared if same_shape else machine.step_seconds,
        step_source=Source.MEASURED if same_shape else machine.step_source,
        links=links,
        codec_seconds_per_value=sum(codec) / len(codec) if codec else machine.codec_seconds_per_value,
    )


def _line(windows: list[Mapping[str, Any]]) -> Link | None:
    """Fit seconds = fixed + bytes / rate by least squares over single exchanges, from their sums."""
    count = sum(window["count"] for window in windows)
    if not count:
        return None
    total_bytes, total_seconds, squared, product = (
        sum(window[name] for window in windows)
        for name in ("sum_bytes", "sum_seconds", "sum_bytes_squared", "sum_bytes_seconds")
    )
    spread = count * squared - total_bytes * total_bytes
    slope = (count * product - total_bytes * total_seconds) / spread if spread > 1e-6 * count * squared else 0.0
    fixed = (total_seconds - slope * total_bytes) / count
    if slope <= 0 or fixed < 0:  # one size alone, or noise: all of it is the link's
        return Link(total_bytes / total_seconds, 0.0, Source.MEASURED) if total_seconds > 0 else None
    return Link(1 / slope, fixed, Source.MEASURED)
