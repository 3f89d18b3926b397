"""What docs/benchmarks.md says of a sweep and of the scaled replay: tables, and every asked figure as met or missed."""

from __future__ import annotations

from collections import Counter
from statistics import median
from textwrap import wrap
from typing import Any

from bench.sweep import verdicts
from bench.sweep.plan import FAST_RATIO, SHORT_FROM_RATIO, SHORT_STEPS
from bench.sweep.table import Cell, bound_seconds, cell_of, cells
from bench.sweep.variants import VARIANTS
from bench.sweep.verdicts import OFF, PAPERS_RATIO, RING
from thinwire.controller.policy.law import AS_SHORT

_HEADINGS = ("ratio", "Mbit/s", "variant", "picture s (least to most)", "xfuser ring / it", "off / it", "step / bound")
_MORE_HEADINGS = ("codec ms", "dB (worst)", "SSIM", "runs")


def sweep_section(told: dict[str, Any]) -> str:
    """Return the table of a sweep and the verdicts."""
    found = cells(told)
    layout, setting = told["layout"], told["setting"]
    headings = (*_HEADINGS, *_MORE_HEADINGS)
    rows = "\n".join(_row(found, told, cell) for cell in sorted(found, key=lambda cell: (cell.ratio, cell.seconds[0])))
    megabytes, milliseconds = layout["bytes_per_step"] / 1e6, layout["compute_seconds"] * 1e3
    return f"""One picture of the in-box model ({setting["steps"]} steps, guidance {setting["guidance"]:g},
{setting["pixels"]} px, bfloat16, so that an uncompressed value has 16 bits) by two ranks, each in a network namespace
behind a token bucket, one thread each on two cores: more ranks would wait for processors instead of links. Ranks are
forked anew into the same namespaces (what one layout can do follows in the same ranks); variants take turns,
with the same prompts and seeds. What travels whole takes the same time in every step, so from ratio
{SHORT_FROM_RATIO:g} on a picture of it is {SHORT_STEPS} measured steps and the median step for each of the others; its
fidelity is that of the same prompt's whole picture at a smaller ratio. Ratio: transfer over computing time of the
uncompressed step ({megabytes:.2f} MB from each rank, computing {milliseconds:.1f} ms, measured at the start); the
paper's FLUX at 0.5 GB/s is about {PAPERS_RATIO:g}; at {FAST_RATIO:g} compression cannot help. PSNR and SSIM against one
process's picture of the same seed, on pictures in [0, 1]: bfloat16 alone, computed in another order, leaves about
56 dB. Bound: max(computing of one process / 2, bytes of the variant / link) of a step. Adaptive is told as its second
picture, when the link is known; the first is in the file. It has a stall target of
{setting["target_stall_percent"]} %, an error ceiling of
{setting["max_relative_error_milli"]} and at least {setting["min_millibits"]} millibits; `adaptive from 600` is the same
job with `minMillibits: 600`, `adaptive PipeFusion` the same law over two pipeline stages. cf-: CompactFusion's math
with its first-order residual and a whole warm-up step, charged for a frame's header of 40 bytes that the paper's do not
have; it runs on the eager kernel, so its codec's time is told apart. xfuser's own collectives over gloo send before
they ask for data, so the two directions of a link run partly one after the other: `thinwire off` is the same exchange
of whole values without that.

{_extent(found, told)}
{_beside_one_process(found)}

| {" | ".join(headings)} |
|{"---|" * len(headings)}
{rows}

![step time over bandwidth](images/links.png)

![latency and fidelity at each bandwidth](images/links-front.png)

{verdicts.table(told)}

The best fixed rung is what the law's own rule picks when every rung's step is known: the most faithful whose stall is
within the target, else the most faithful of those within {AS_SHORT - 1:.0%} of the shortest step."""


def _extent(found: list[Cell], told: dict[str, Any]) -> str:
    """Return what was run, what was not, and how much the machine's own speed changed meanwhile."""
    counts = [cell.runs for cell in found]
    ran = {cell.variant for cell in found}
    ratios = sorted({cell.ratio for cell in found if cell.ratio})
    computing = sorted(
        1e3 * picture["compute_seconds"]
        for run in told["runs"]
        if run["kind"] == "thinwire"
        for picture in run["pictures"]
    )
    missing = [variant.name for variant in VARIANTS if variant.name not in ran]
    levels = ", ".join(f"{ratio:g}" for ratio in ratios)
    said = f"Every variant ran {min(counts)} to {max(counts)} time(s) at a ratio where it ran; ratios: {levels}."
    if missing:
        said += f" Not run: {', '.join(missing)}."
    if computing:
        said += (
            f" A step of thinwire's ranks computed for {computing[0]:.0f} to {computing[-1]:.0f} ms (middle "
            f"{median(computing):.0f}): where that varies other work ran on the machine, "
            "and differences within it say nothing."
        )
    failures = Counter((failed["variant"], failed["cause"].splitlines()[-1]) for failed in told.get("failures", ()))
    for (variant, cause), times in failures.items():
        said += f" {variant} failed {times} time(s): {cause}."
    commits = Counter(run["commit"] for run in told["runs"] if "commit" in run)
    for commit, _ in commits.most_common()[1:]:
        names = dict.fromkeys(run["variant"] for run in told["runs"] if run.get("commit") == commit)
        said += f" Not of the same turns as the rest, and of another commit ({commit[:7]}): {', '.join(names)}."
    return "\n".join(wrap(said, 120))


def _beside_one_process(found: list[Cell]) -> str:
    """Return which parallel runs are worth their second rank, and why so few."""
    alone = next((cell for cell in found if not cell.ratio), None)
    ours = [cell.compute_seconds for cell in found if cell.kind == "thinwire"]
    if alone is None or not ours:
        return ""
    faster = sorted(
        {f"{cell.variant} at {cell.ratio:g}" for cell in found if cell.ratio and cell.seconds[0] < alone.seconds[0]}
    )
    share = median(ours) / alone.step_seconds
    said = (
        f"One process takes {alone.seconds[0]:.2f} s a picture; faster than that: {', '.join(faster) or 'none'}. The "
        f"model is small, each of two ranks computes for {share:.0%} of its step, so parallel runs compare with each "
        "other and not with it."
    )
    return "\n".join(wrap(said, 120))


def _row(found: list[Cell], told: dict[str, Any], cell: Cell) -> str:
    ring, off = (cell_of(found, name, cell.ratio) for name in (RING, OFF))
    bound = bound_seconds(found, told, cell)
    layout = told["layout"]
    megabits = 8e-6 * layout["bytes_per_step"] / (cell.ratio * layout["compute_seconds"]) if cell.ratio else None
    middle, least, most = cell.seconds
    cells_of_row = (
        f"{cell.ratio:g}" if cell.ratio else "no link",
        f"{megabits:.1f}" if megabits else "",
        cell.variant,
        f"{middle:.2f} ({least:.2f} to {most:.2f})",
        f"{ring.seconds[0] / middle:.2f}" if ring and cell.ratio else "",
        f"{off.seconds[0] / middle:.2f}" if off and cell.ratio else "",
        f"{cell.step_seconds / bound:.2f}" if bound else "",
        f"{cell.codec_seconds * 1e3:.1f}",
        f"{cell.psnr_db:.1f} ({cell.least_psnr_db:.1f})",
        f"{cell.ssim:.4f}",
        str(cell.runs),
    )
    return f"| {' | '.join(cells_of_row)} |"


def replay_section(told: dict[str, Any]) -> str:
    """Return the scaled replay's table."""
    setting = told["setting"]
    rings = {
        one["gigabytes_per_second"]: one["picture_seconds"] for one in told["outcomes"] if one["variant"] == "ring"
    }
    rows = []
    for one in told["outcomes"]:
        paper = setting["paper_seconds"][f"{one['gigabytes_per_second']:.1f}"]
        theirs, ring = paper.get(one["variant"]), rings.get(one["gigabytes_per_second"])
        faster = f"{paper['ring'] / theirs:.1f}" if theirs else ""
        rows.append(
            f"| {one['gigabytes_per_second']:g} GB/s | {one['variant']} | {one['picture_seconds']:.1f} | "
            f"{theirs if theirs else ''} | {ring / one['picture_seconds']:.1f} | "
            f"{faster} |"
        )
    return f"""FLUX.1-dev's exchange on 4 ranks, 28 steps, beside CompactFusion's table (one GPU takes
{setting["one_gpu_seconds"]} s): 57 layers, tokens and bandwidth both divided by {setting["scale"]}, computing replaced
by waiting, links and collectives real. What codecs compute is left out, of all rungs alike. A picture is one step of
key frames and 27 times the median of the others.

| link | variant | picture s | paper's s | faster than ring | paper's |
|---|---|---|---|---|---|
{chr(10).join(rows)}"""
