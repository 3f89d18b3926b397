"""What docs/benchmarks.md says of a sweep and of the scaled replay: tables, and every asked figure as met or missed."""

from __future__ import annotations

from statistics import median
from textwrap import wrap
from typing import Any

from bench.sweep.table import Cell, bound_seconds, cell_of, cells
from bench.sweep.variants import VARIANTS

PAPERS_RATIO = 18.0
WHOLE_MILLIBITS = 32_000
_ADAPTIVE, _RING, _OFF, _ONE_BIT = "thinwire adaptive", "xfuser ring", "thinwire off", "cf-1bit"
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
behind a token bucket, one thread each on two cores: more ranks would wait for processors instead of links. Every run is
forked anew into the same namespaces; variants take turns, with the same prompts and seeds. Ratio: transfer over
computing time of the uncompressed step ({megabytes:.2f} MB from each rank, computing {milliseconds:.1f} ms, measured at
the start); the paper's FLUX at 0.5 GB/s is about {PAPERS_RATIO:g}. PSNR and SSIM against one process's picture of the
same seed, on pictures in [0, 1]: bfloat16 alone, computed in another order, leaves about 56 dB. Bound: max(computing of
one process / 2, bytes of the variant / link) of a step. Adaptive is told as its second picture, when the link is known;
the first is in the file. It has a stall target of {setting["target_stall_percent"]} %, an error ceiling of
{setting["max_relative_error_milli"]} and at least {setting["min_millibits"]} millibits. cf-: CompactFusion's math with
its first-order residual and a whole warm-up step, charged for a frame's header of 40 bytes that the paper's do not
have; it runs on the eager kernel, so its codec's time is told apart. xfuser's own collectives over gloo send before
they ask for data, so the two directions of a link run partly one after the other: `thinwire off` is the same exchange
of whole values without that.

{_extent(found, told)}
One process is faster here than any two ranks: the model is small and two ranks
compute two thirds of its step each, so only parallel runs compare with each other.

| {" | ".join(headings)} |
|{"---|" * len(headings)}
{rows}

![step time over bandwidth](images/links.png)

![latency and fidelity at each bandwidth](images/links-front.png)

{verdicts(told)}

Causes, as far as known. The bound: the exchange does not overlap with computing, two ranks compute more than half of
a step each, and at half a bit the bytes are so few that both weigh most. Fidelity beside cf-1bit: where no rung keeps
the target the law takes the shortest step, down to the smallest rate that is allowed; a fixed `transform-1000` is
1.28 times as fast as cf-1bit at +10.5 dB, so `minMillibits` 1000 buys fidelity for a third more time. cf-1bit's codec
would be faster if it were native. xfuser's PipeFusion is as fast at 0.5 and 1, where it sends a fifth of the bytes,
and less faithful. The estimator: where the fixed cost of an exchange is as long as its transfer, alpha and beta
cannot be told apart; a cap of alpha by the fastest exchange seen is the first thing to try. Five runs at ratio 18,
single ones elsewhere. The bases were calibrated anew, the costs per place before codes followed a trellis. Not
measured: at most 2 % slower than off where compression cannot help, 5 % of the best fixed rung."""


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
    commits = {run["commit"] for run in told["runs"] if "commit" in run}
    if len(commits) > 1:
        said += f" The runs are of {len(commits)} commits (`commit` of every run in the file), with codecs that differ."
    return "\n".join(wrap(said, 120))


def _row(found: list[Cell], told: dict[str, Any], cell: Cell) -> str:
    ring, off = (cell_of(found, name, cell.ratio) for name in (_RING, _OFF))
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


def verdicts(told: dict[str, Any]) -> str:
    """Return what was asked of the adaptive rate, line by line: met or missed, with the figure."""
    found = cells(told)
    ratios = sorted({cell.ratio for cell in found if cell.ratio})
    lines = [*_at_the_papers_ratio(found, told), *(line for ratio in ratios for line in _at(found, ratio))]
    return "\n".join(f"- {line}" for line in [*lines, *_over_all_runs(told)])


def _at_the_papers_ratio(found: list[Cell], told: dict[str, Any]) -> list[str]:
    adaptive, ring, off, one_bit = (cell_of(found, name, PAPERS_RATIO) for name in (_ADAPTIVE, _RING, _OFF, _ONE_BIT))
    if adaptive is None:
        return []
    lines = []
    for name, whole in ((_RING, ring), (_OFF, off)):
        if whole is not None:
            faster = whole.seconds[0] / adaptive.seconds[0]
            lines.append(f"{_word(faster >= 10)}: at ratio 18 {faster:.1f} times faster than {name} (asked: 10)")
    if one_bit is not None:
        faster, gain = one_bit.seconds[0] / adaptive.seconds[0], adaptive.psnr_db - one_bit.psnr_db
        free = (one_bit.step_seconds - one_bit.codec_seconds) / adaptive.step_seconds
        lines.append(
            f"{_word(faster >= 1.5 and gain >= 3)}: at ratio 18 {faster:.2f} times faster than cf-1bit (asked: 1.5; "
            f"{free:.2f} if its codec took no time) at {gain:+.1f} dB (asked: +3)"
        )
    bound = bound_seconds(found, told, adaptive)
    if bound is not None:
        share = adaptive.step_seconds / bound
        lines.append(f"{_word(share <= 1.25)}: at ratio 18 a step takes {share:.2f} of the bound (asked: 1.25)")
    return lines


def _at(found: list[Cell], ratio: float) -> list[str]:
    here = [cell for cell in found if cell.ratio == ratio]
    adaptive = cell_of(here, _ADAPTIVE, ratio)
    if adaptive is None:
        return []
    baselines = [cell for cell in here if not cell.variant.startswith("thinwire")]
    better = [
        cell.variant
        for cell in baselines
        if cell.seconds[0] <= adaptive.seconds[0] and cell.psnr_db >= adaptive.psnr_db
    ]
    lines = []
    if baselines:
        lines.append(
            f"{_word(not better)}: at ratio {ratio:g} faster or more faithful than every parallel baseline"
            + (f"; faster and more faithful: {', '.join(better)}" if better else "")
        )
    return lines


def _over_all_runs(told: dict[str, Any]) -> list[str]:
    ceiling = told["setting"]["max_relative_error_milli"]
    adaptive = [run for run in told["runs"] if run["variant"] == _ADAPTIVE]
    pictures = [picture for run in adaptive for picture in run["pictures"]]
    above = repaired = 0
    for picture in pictures:
        following = [*picture["key_frames"][1:], True]  # a prompt's end is followed by the next one's key frame
        whole = [rate >= WHOLE_MILLIBITS for rate in (*picture["rates"][1:], WHOLE_MILLIBITS)]
        steps = zip(picture["errors_milli"], picture["key_frames"], following, whole, strict=True)
        for error, is_key_frame, key_frame, later_whole in steps:
            if error > ceiling and not is_key_frame:
                above += 1
                repaired += key_frame or later_whole
    shares = sorted(8 * run["pictures"][-1]["estimate_bytes_per_second"] / run["bits_per_second"] for run in adaptive)
    lines = [
        f"{_word(above == repaired)}: {above} of {sum(len(p['rates']) for p in pictures)} adaptive steps above the "
        f"error ceiling, {repaired} of them followed at once by a key frame, or by a step that travels whole"
    ]
    if shares:
        within = all(0.9 <= share <= 1.1 for share in shares)
        lines.append(
            f"{_word(within)}: the estimator ends at {shares[0]:.2f} to {shares[-1]:.2f} of the shaped rate "
            "(asked: 0.9 to 1.1)"
        )
    return lines


def _word(met: bool) -> str:
    return "Met" if met else "**Missed**"


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
