"""The figures of `python -m bench simulate` as a table has them, on the terminal and on the page."""

from __future__ import annotations

from statistics import fmean, median
from typing import Any

HEADINGS = ("trace", "regret %", "step time ratio", "bits given away %", "switches / 100", "steps to adapt")
_STEPS_PER_PROMPT = 28


def rows(result: dict[str, Any]) -> list[list[str]]:
    """One row per scenario, and the shared uplink where it was run."""
    found = [cells(row) for row in result["scenarios"]]
    return [*found, shared_cells(result["shared"])] if result["shared"] else found


def cells(row: dict[str, Any]) -> list[str]:
    """One scenario's figures as a table has them."""

    def both(figure: str, form: str, scale: float = 1.0) -> str:
        values = [scale * seed[figure] for seed in row["seeds"]]
        return f"{median(values):{form}} ({max(values):{form}})"

    adapted = [seed["steps_to_adapt"] for seed in row["seeds"] if seed["steps_to_adapt"] is not None]
    return [
        row["name"],
        both("regret", ".1f", 100),
        both("step_time_ratio", ".3f"),
        both("bits_given_away", ".0f", 100),
        both("switches_per_hundred_steps", ".1f"),
        f"{median(adapted):g} ({max(adapted)})" if adapted else "",
    ]


def shared_cells(shared: dict[str, Any]) -> list[str]:
    """The same of many jobs behind one uplink; the oracle is the best rung for all of them, known in advance."""
    best = shared["fixed_seconds"][shared["best"]]
    ratio = shared["mean_step_seconds"] / best
    return [
        f"{shared['jobs']:,} jobs, one uplink (against all at {shared['best']})",
        f"{100 * max(ratio - 1, 0):.1f}",
        f"{ratio:.3f}",
        "",
        f"{100 * fmean(shared['switches'][_STEPS_PER_PROMPT:]):.1f}",
        "",
    ]
