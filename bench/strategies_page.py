"""What docs/strategies.md says of measured runs: tables of `bench strategies` and `bench overlap`."""

from __future__ import annotations

from statistics import median
from typing import Any

HEADINGS = ("strategy", "ranks", "rate", "KiB a picture", "of fp16", "dB to one process", "dB to uncompressed")
"""Of `bench strategies`."""


def cells(rows: list[dict[str, Any]], pictures: int) -> list[list[str]]:
    """Return the strategies' table as text."""
    lines = []
    for row in rows:
        own = row["psnr_db_to_uncompressed"]
        lines.append(
            [
                row["strategy"],
                str(row["ranks"]),
                row["rate"],
                f"{row['bytes_sent'] / pictures / 1024:,.0f}",
                f"{row['bytes_sent'] / row['bytes_uncompressed_fp16']:.2f}" if row["bytes_sent"] else "",
                _decibels(row["psnr_db_to_one_process"]),
                "" if own is None else _decibels(own),
            ]
        )
    return lines


def strategies_section(told: dict[str, Any]) -> str:
    """Return what is said of `bench strategies`."""
    setting = told["setting"]
    rows = "\n".join("| " + " | ".join(line) + " |" for line in cells(told["rows"], len(setting["prompts"])))
    return f"""The in-box model in every strategy that it admits: {len(setting["prompts"])} prompts, {setting["steps"]} steps, guidance
{setting["guidance_scale_milli"] / 1000:g}, {setting["pixels"]} px, float32 (an uncompressed value has 32 bits, so that "of fp16" begins at 2), one key
frame, predictor order {setting["predictor_order"]}, scalar rungs. Medians over the prompts, of pictures in [0, 1] before they are rounded to 8
bits; in brackets the worst. PSNR to the picture of one process counts staleness and codec together, PSNR to the same
strategy uncompressed the codec alone. Bytes are those of all ranks, key frames, scales and headers included.

![the first prompt in every strategy at every rate](images/strategies.png)

| {" | ".join(HEADINGS)} |
|{"---|" * len(HEADINGS)}
{rows}
"""  # noqa: E501 - the sentences are filled in


def overlap_section(told: dict[str, Any]) -> str:
    """Return what is said of `bench overlap`."""
    setting, runs = told["setting"], told["runs"]
    speeds = list(dict.fromkeys(run["megabits"] for run in runs))
    turns = max(run["turn"] for run in runs) + 1
    pairs = list(dict.fromkeys((run["strategy"], run["rate"]) for run in runs))
    titles = " | ".join(f"{speed} Mbit/s" for speed in speeds)
    shares = "\n".join(
        f"| {strategy} | {rate} | " + " | ".join(_hidden(runs, strategy, rate, speed) for speed in speeds) + " |"
        for strategy, rate in pairs
    )
    ratios = "\n".join(
        f"| {ranks} | {rate} | " + " | ".join(_gather_over_ring(runs, ranks, rate, speed) for speed in speeds) + " |"
        for ranks in (2, 4)
        for rate in setting["rates_millibits"]
    )
    return f"""Every rank in a network namespace of its own behind a token bucket, one thread each on two cores; the in-box model in
{setting["dtype"]}, {setting["steps"]} steps, of which the first {setting["first_steps_left_out"]} are left out; medians over the steps, then over {turns} turns, in which the
strategies alternate. In a cell: the share of the transfers' seconds that passed while every rank computed; the
milliseconds of a step, and in brackets what of them was computing. Four ranks share the two cores, so that there is
hardly a moment in which all of them compute: what four hide is not seen here.

| strategy | rate | {titles} |
|---|---|{"---|" * len(speeds)}
{shares}

A ring's hops beside one gather of the same keys and values: a step with the gather over a step with the hops, turn by
turn, median (least to most). Above 1 the hops are faster.

| ranks | rate | {titles} |
|---|---|{"---|" * len(speeds)}
{ratios}
"""  # noqa: E501 - the sentences are filled in


def _decibels(values: list[float]) -> str:
    return f"{median(values):.1f} ({min(values):.1f})"


def _of(runs: list[dict[str, Any]], strategy: str, rate: str, megabits: int) -> list[dict[str, Any]]:
    keys = ("strategy", "rate", "megabits")
    found = [run for run in runs if tuple(run[key] for key in keys) == (strategy, rate, megabits)]
    return sorted(found, key=lambda run: run["turn"])


def _hidden(runs: list[dict[str, Any]], strategy: str, rate: str, megabits: int) -> str:
    found = _of(runs, strategy, rate, megabits)
    if not found:
        return ""
    share = median(run["hidden_seconds"] / run["transfer_seconds"] for run in found)
    step, computing = (1e3 * median(run[f"{what}_seconds"] for run in found) for what in ("step", "compute"))
    return f"{100 * share:.0f} %; {step:.0f} ({computing:.0f})"


def _gather_over_ring(runs: list[dict[str, Any]], ranks: int, rate: str, megabits: int) -> str:
    gathers, rings = (_of(runs, f"{kind} {ranks}", rate, megabits) for kind in ("patch gather", "ring"))
    ratios = [one["step_seconds"] / other["step_seconds"] for one, other in zip(gathers, rings, strict=False)]
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""
