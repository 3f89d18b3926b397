"""Two pictures of a sweep: seconds of a step over bandwidth, and latency and fidelity at each bandwidth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import ScalarFormatter

from bench.sweep.table import Cell, bound_seconds, cells
from bench.sweep.variants import ADAPTIVE, RING, VARIANTS

_COLOURS = {
    "thinwire": "tab:blue",
    "CompactFusion's math": "tab:orange",
    "xfuser": "tab:red",
    "uncompressed patches": "tab:purple",
    "one process": "black",
}
_ADAPTIVE = tuple(variant.name for variant in VARIANTS if variant.adaptive)
_ADAPTIVE_COLOUR = "tab:green"
_ABOVE, _BELOW = 3, -8
_MARKERS = "osD^v<>PX*hp"


def draw(told: dict[str, Any], folder: Path) -> None:
    """Write links.png and links-front.png."""
    folder.mkdir(parents=True, exist_ok=True)
    found = cells(told)
    _draw_times(found, told, folder / "links.png")
    _draw_fronts(found, folder / "links-front.png")


def _colour(cell: Cell) -> str:
    return _ADAPTIVE_COLOUR if cell.variant in _ADAPTIVE else _COLOURS[cell.kind]


def _draw_times(found: list[Cell], told: dict[str, Any], path: Path) -> None:
    layout = told["layout"]
    figure, axes = plt.subplots(figsize=(9, 5.5))
    for number, variant in enumerate(dict.fromkeys(cell.variant for cell in found if cell.ratio)):
        line = sorted((cell for cell in found if cell.variant == variant), key=lambda cell: cell.ratio)
        mbits = [8e-6 * layout["bytes_per_step"] / (cell.ratio * layout["compute_seconds"]) for cell in line]
        axes.plot(
            mbits,
            [cell.step_seconds * 1e3 for cell in line],
            color=_colour(line[0]),
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=4,
            linewidth=2.2 if variant in _ADAPTIVE else 0.9,
            label=variant,
        )
        if variant in (ADAPTIVE.name, RING.name):
            bounds = [bound_seconds(found, told, cell) or float("nan") for cell in line]
            axes.plot(
                mbits, [1e3 * b for b in bounds], color=_colour(line[0]), linestyle=":", label=f"bound of {variant}"
            )
    axes.set(xscale="log", yscale="log", xlabel="link, Mbit/s", ylabel="median step, ms")
    axes.legend(fontsize=7, ncols=2)
    axes.grid(which="both", alpha=0.2)
    axes.set_title("Step time over bandwidth; dotted: max(computing / ranks, bytes / link)", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_fronts(found: list[Cell], path: Path) -> None:
    ratios = sorted({cell.ratio for cell in found if cell.ratio})
    columns = 2
    rows = -(-len(ratios) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(11, 3.6 * rows), squeeze=False)
    for axes, ratio in zip(grid.flat, ratios, strict=False):
        here = sorted((cell for cell in found if cell.ratio == ratio), key=lambda cell: cell.seconds[0])
        for number, cell in enumerate(here):
            star = cell.variant in _ADAPTIVE
            axes.scatter(
                cell.seconds[0], cell.psnr_db, color=_colour(cell), marker="*" if star else "o", s=120 if star else 22
            )
            name = cell.variant.removeprefix("thinwire ")
            beside = (3, _BELOW if number % 2 else _ABOVE)
            axes.annotate(name, (cell.seconds[0], cell.psnr_db), fontsize=6, xytext=beside, textcoords="offset points")
        axes.set_xlim(0.85 * here[0].seconds[0], 1.35 * here[-1].seconds[0])
        axes.set(xscale="log", xlabel="seconds a picture", ylabel="PSNR, dB")
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(ScalarFormatter())
        axes.tick_params(axis="x", which="both", labelsize=6, rotation=45)
        axes.set_title(f"communication / computing = {ratio:g}", fontsize=9)
        axes.grid(which="both", alpha=0.2)
    for axes in list(grid.flat)[len(ratios) :]:
        axes.remove()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
