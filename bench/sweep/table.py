"""The figures of `python -m bench links` as tables have them: medians with least and most over the turns."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

from rich.table import Table

EXACT_DB = 100.0
"""Stands for a picture that is the same to the last bit."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One variant at one ratio. Seconds of a picture and of a step; `runs` is how many there are."""

    variant: str
    kind: str
    ratio: float
    runs: int
    seconds: tuple[float, float, float]
    """Median, least, most."""
    step_seconds: float
    compute_seconds: float
    codec_seconds: float
    bytes_per_step: float
    psnr_db: float
    least_psnr_db: float
    ssim: float


def cells(told: dict[str, Any]) -> list[Cell]:
    """Return a cell for every variant and ratio that has run, in the order of their first runs."""
    keys = dict.fromkeys((run["variant"], run["ratio"]) for run in told["runs"])
    return [_cell(*key, told["runs"]) for key in keys]


def cell_of(found: list[Cell], variant: str, ratio: float) -> Cell | None:
    """Return a variant's cell at a ratio; what needs no link has one at 0."""
    return next((cell for cell in found if cell.variant == variant and cell.ratio in (ratio, 0.0)), None)


def bound_seconds(found: list[Cell], told: dict[str, Any], cell: Cell) -> float | None:
    """Return max(computing of one process / ranks, bytes / link) for a step of a cell; None before both are known."""
    alone = next((one for one in found if one.ratio == 0.0), None)
    if alone is None or not cell.ratio:
        return None
    layout = told["layout"]
    bytes_per_second = float(layout["bytes_per_step"] / (cell.ratio * layout["compute_seconds"]))
    return max(alone.step_seconds / 2, cell.bytes_per_step / bytes_per_second)


def rich_table(told: dict[str, Any]) -> Table:
    """Return everything, for a terminal."""
    found = cells(told)
    headings = (
        "ratio",
        "variant",
        "picture s",
        "least",
        "most",
        "ring / it",
        "step ms",
        "bound",
        "dB",
        "worst dB",
        "n",
    )
    table = Table(*headings, title="Links")
    for cell in sorted(found, key=lambda cell: (cell.ratio, cell.seconds[0])):
        ring = cell_of(found, "xfuser ring", cell.ratio)
        bound = bound_seconds(found, told, cell)
        table.add_row(
            f"{cell.ratio:g}",
            cell.variant,
            *(f"{seconds:.2f}" for seconds in cell.seconds),
            f"{ring.seconds[0] / cell.seconds[0]:.2f}" if ring else "",
            f"{cell.step_seconds * 1e3:.1f}",
            f"{cell.step_seconds / bound:.2f}" if bound else "",
            f"{cell.psnr_db:.1f}",
            f"{cell.least_psnr_db:.1f}",
            str(cell.runs),
        )
    return table


def one_line(run: dict[str, Any]) -> str:
    """Return what one run has shown."""
    last = run["pictures"][-1]
    psnr = f"{run['steps']} steps only"
    if "psnr_db" in last:
        psnr = "same" if last["psnr_db"] is None else f"{last['psnr_db']:.1f} dB"
    seconds = ", ".join(f"{picture['seconds']:.2f}" for picture in run["pictures"])
    rates = sorted(set(last["rates"]))
    return (
        f"ratio {run['ratio']:g}, {run['variant']}: {seconds} s, step {last['step_seconds'] * 1e3:.1f} ms "
        f"(computing {last['compute_seconds'] * 1e3:.1f}, transfer {last['transfer_seconds'] * 1e3:.1f}, codec "
        f"{last['codec_seconds'] * 1e3:.1f}), {psnr}, {'/'.join(map(str, rates))} millibits"
    )


def _cell(variant: str, ratio: float, all_runs: list[dict[str, Any]]) -> Cell:
    runs = [run for run in all_runs if (run["variant"], run["ratio"]) == (variant, ratio)]
    last = [run["pictures"][-1] for run in runs]
    seconds = sorted(picture["seconds"] for picture in last)
    seen = _compared(variant, last, all_runs)
    psnr = [EXACT_DB if picture["psnr_db"] is None else picture["psnr_db"] for picture in seen]

    def middle(figure: str) -> float:
        return float(median(picture[figure] for picture in last))

    return Cell(
        variant=variant,
        kind=runs[0]["kind"],
        ratio=ratio,
        runs=len(runs),
        seconds=(median(seconds), seconds[0], seconds[-1]),
        step_seconds=middle("step_seconds"),
        compute_seconds=middle("compute_seconds"),
        codec_seconds=middle("codec_seconds"),
        bytes_per_step=middle("bytes_per_step"),
        psnr_db=median(psnr) if psnr else float("nan"),
        least_psnr_db=min(psnr, default=float("nan")),
        ssim=float(median(picture["ssim"] for picture in seen)) if seen else float("nan"),
    )


def _compared(variant: str, pictures: list[dict[str, Any]], runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return pictures whose fidelity is known: where they had a few steps only, the whole ones of the same prompts.

    Only variants whose values travel whole have such, and theirs are the same at every ratio.
    """
    if all("psnr_db" in picture for picture in pictures):
        return pictures
    prompts = {picture["prompt"] for picture in pictures}
    whole = [run["pictures"][-1] for run in runs if run["variant"] == variant and "psnr_db" in run["pictures"][-1]]
    return [picture for picture in whole if picture["prompt"] in prompts]
