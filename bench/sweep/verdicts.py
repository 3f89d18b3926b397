"""What was asked of the adaptive rate, figure by figure: met, or missed and why."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.sweep import variants
from bench.sweep.plan import FAST_RATIO
from bench.sweep.table import Cell, bound_seconds, cell_of, cells
from thinwire.controller.policy.law import AS_SHORT

PAPERS_RATIO = 18.0
WHOLE_MILLIBITS = 32_000
ADAPTIVE, FROM_600, PIPEFUSION = (one.name for one in (variants.ADAPTIVE, variants.FROM_600, variants.PIPEFUSION))
RING, OFF, ONE_BIT = (one.name for one in (variants.RING, variants.OFF, variants.ONE_BIT))
POLICIES = (ADAPTIVE, FROM_600, PIPEFUSION)
HEADINGS = ("asked", "ratio", "measured", "verdict", "cause where missed")

_BOUND = (
    "nothing of the exchange overlaps with computing, and each of two ranks computes more than half of what one "
    "process does: at half a bit a value the bytes are so few that both weigh most"
)
_FASTER = "at such rates what both compute weighs as much as what they send"
_GAIN = "as few bits as the limits allow are sent where no rung keeps the target"
_ESTIMATOR = (
    "two ranks on two cores do not pass whole values at the shaped rate either where it is high; at few bits an "
    "exchange's fixed cost is as long as its transfer, and a few percent of the one are many of the other "
    "(docs/rate-control.md says what was tried)"
)
_BEST = "the estimate's error, and rungs whose stalls lie close beside the target: the law stays on the careful side"
_OFF = "reports, the agreement at a step's end and the estimator's own computing; and the machine's noise"
_FRONT = "PipeFusion hands on a tenth of the bytes and waits for its peer once a patch, not in every layer"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line."""

    asked: str
    ratio: float | None
    measured: str
    met: bool
    cause: str = ""

    def row(self) -> tuple[str, ...]:
        """Return it as the table has it."""
        ratio = f"{self.ratio:g}" if self.ratio is not None else "all"
        return self.asked, ratio, self.measured, "met" if self.met else "**missed**", "" if self.met else self.cause


def verdicts(told: dict[str, Any]) -> list[Verdict]:
    """Return all that the runs of a sweep can tell."""
    found = cells(told)
    ratios = sorted({cell.ratio for cell in found if cell.ratio})
    lines = [line for policy in POLICIES for line in _at_the_papers_ratio(found, told, policy)]
    for ratio in ratios:
        lines += _beside_other_rungs(found, told, ratio)
    for policy in (ADAPTIVE, PIPEFUSION):
        for ratio in ratios:
            lines += _front(found, ratio, policy)
    for ratio in ratios:
        lines += _estimator(told, ratio)
    return [*lines, _ceiling(told)]


def table(told: dict[str, Any]) -> str:
    """Return them as a page has them."""
    rows = [one.row() for one in verdicts(told)]
    lines = [HEADINGS, tuple("---" for _ in HEADINGS), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _at_the_papers_ratio(found: list[Cell], told: dict[str, Any], name: str) -> list[Verdict]:
    adaptive, ring, one_bit = (cell_of(found, each, PAPERS_RATIO) for each in (name, RING, ONE_BIT))
    policy = name.removeprefix("thinwire ")
    if adaptive is None:
        return []
    lines = []
    if ring is not None:
        faster = ring.seconds[0] / adaptive.seconds[0]
        asked = f"{policy}: 10 times faster than xfuser's ring"
        lines.append(Verdict(asked, PAPERS_RATIO, f"{faster:.1f}", faster >= 10, _FASTER))
    if one_bit is not None:
        faster, gain = one_bit.seconds[0] / adaptive.seconds[0], adaptive.psnr_db - one_bit.psnr_db
        free = (one_bit.step_seconds - one_bit.codec_seconds) / adaptive.step_seconds
        said = f"{faster:.2f} ({free:.2f} if its codec took no time)"
        lines.append(Verdict(f"{policy}: 1.5 times faster than cf-1bit", PAPERS_RATIO, said, faster >= 1.5, _FASTER))
        lines.append(Verdict(f"{policy}: 3 dB above cf-1bit", PAPERS_RATIO, f"{gain:+.1f} dB", gain >= 3, _GAIN))
    bound = bound_seconds(found, told, adaptive)
    if bound is not None:
        share = adaptive.step_seconds / bound
        asked = f"{policy}: a step of 1.25 times the bound"
        lines.append(Verdict(asked, PAPERS_RATIO, f"{share:.2f}", share <= 1.25, _BOUND))
    return lines


def _beside_other_rungs(found: list[Cell], told: dict[str, Any], ratio: float) -> list[Verdict]:
    adaptive, off = (cell_of(found, name, ratio) for name in (ADAPTIVE, OFF))
    if adaptive is None:
        return []
    if ratio == FAST_RATIO:
        if off is None:
            return []
        slower = adaptive.seconds[0] / off.seconds[0] - 1
        asked = "at most 2 % slower than off where compression cannot help"
        return [Verdict(asked, ratio, f"{slower:+.1%}", slower <= 0.02, _OFF)]
    best = best_fixed_rung(found, told["setting"]["target_stall_percent"], ratio)
    if best is None:
        return []
    slower, gain = adaptive.seconds[0] / best.seconds[0] - 1, adaptive.psnr_db - best.psnr_db
    said = f"{slower:+.1%} of {best.variant.removeprefix('thinwire ')}, {gain:+.1f} dB"
    return [Verdict("within 5 % of the best fixed rung", ratio, said, slower <= 0.05, _BEST)]


def best_fixed_rung(found: list[Cell], target_stall_percent: int, ratio: float) -> Cell | None:
    """Return what the law's own rule picks when the steps of all fixed rungs are known; None where none ran."""
    fixed = [
        cell
        for cell in found
        if cell.ratio == ratio
        and cell.kind == "thinwire"
        and cell.variant not in POLICIES
        and "PipeFusion" not in cell.variant
    ]
    if not fixed:
        return None
    allowed = target_stall_percent / 100
    fitting = [cell for cell in fixed if cell.step_seconds <= (1 + allowed) * cell.compute_seconds]
    shortest = min(cell.step_seconds for cell in fixed)
    as_short = [cell for cell in fixed if cell.step_seconds <= AS_SHORT * shortest]
    return max(fitting or as_short, key=lambda cell: cell.psnr_db)


def _front(found: list[Cell], ratio: float, policy: str) -> list[Verdict]:
    here = [cell for cell in found if cell.ratio == ratio]
    adaptive = cell_of(here, policy, ratio)
    baselines = [cell for cell in here if not cell.variant.startswith("thinwire")]
    if adaptive is None or not baselines:
        return []
    better = [
        cell.variant
        for cell in baselines
        if cell.seconds[0] <= adaptive.seconds[0] and cell.psnr_db >= adaptive.psnr_db
    ]
    said = f"faster and more faithful: {', '.join(better)}" if better else "on the front"
    asked = f"{policy.removeprefix('thinwire ')}: faster or more faithful than every parallel baseline"
    return [Verdict(asked, ratio, said, not better, _FRONT)]


def _estimator(told: dict[str, Any], ratio: float) -> list[Verdict]:
    runs = [run for run in told["runs"] if run["variant"] in (ADAPTIVE, FROM_600) and run["ratio"] == ratio]
    if not runs or ratio == FAST_RATIO:
        return []
    shares = sorted(8 * run["pictures"][-1]["estimate_bytes_per_second"] / run["bits_per_second"] for run in runs)
    said = f"{median(shares):.2f} ({shares[0]:.2f} to {shares[-1]:.2f})"
    whole = [run["pictures"][-1] for run in told["runs"] if run["variant"] == OFF and run["ratio"] == ratio]
    if whole:
        passing = (
            median(8 * one["bytes_per_step"] / one["transfer_seconds"] for one in whole) / runs[0]["bits_per_second"]
        )
        said += f"; whole values pass at {passing:.2f}"
    return [Verdict("estimate over shaped rate 0.9 to 1.1", ratio, said, 0.9 <= median(shares) <= 1.1, _ESTIMATOR)]


def _ceiling(told: dict[str, Any]) -> Verdict:
    ceiling = told["setting"]["max_relative_error_milli"]
    pictures = [picture for run in told["runs"] if run["variant"] in POLICIES for picture in run["pictures"]]
    above = repaired = 0
    for picture in pictures:
        following = [*picture["key_frames"][1:], True]  # a prompt's end is followed by the next one's key frame
        whole = [rate >= WHOLE_MILLIBITS for rate in (*picture["rates"][1:], WHOLE_MILLIBITS)]
        steps = zip(picture["errors_milli"], picture["key_frames"], following, whole, strict=True)
        for error, is_key_frame, key_frame, later_whole in steps:
            if error > ceiling and not is_key_frame:
                above += 1
                repaired += key_frame or later_whole
    steps_made = sum(len(picture["rates"]) for picture in pictures)
    said = f"{above} of {steps_made} adaptive steps above it, {repaired} repaired"
    return Verdict("a step above the error ceiling is followed by a key frame", None, said, above == repaired)
