"""Write docs/benchmarks.md and what is measured in other pages from the committed result files in docs/results/."""

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

from bench.planner_page import planner_section
from bench.simulator.table import HEADINGS, rows
from bench.strategies_page import overlap_section, strategies_section
from bench.sweep.page import replay_section, sweep_section

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs/results"
# CompactFusion's codec, the share of its bits that a transform rung may take, and what that one should reach.
AIMS = (
    ("cf-1bit", 1.0, "+12 dB, worst tenth +6"),
    ("cf-2bit", 1.0, "+9 dB, worst tenth +6"),
    ("cf-1bit", 0.5, "0"),
    ("cf-2bit", 0.6, "0"),
    ("cf-int4", 0.6, "0"),
)
NEAR = 0.8
"""A rung is put beside another codec's bits from this share of them on."""
ROUNDING = 1.001
"""Rates are whole millibits, so a rung may be beside bits that it exceeds by a thousandth."""
BEGIN, END = "<!-- made by `python -m bench page` -->", "<!-- end -->"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench page", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; say whether the pages are current")
    check = parser.parse_args(arguments).check
    fidelity = json.loads((RESULTS / "fidelity.json").read_text())
    codec = json.loads((RESULTS / "codec.json").read_text())
    overhead = json.loads((RESULTS / "overhead.json").read_text())
    simulate = json.loads((RESULTS / "simulate.json").read_text())
    links = json.loads((RESULTS / "links.json").read_text())
    replay = json.loads((RESULTS / "replay.json").read_text())
    strategies = json.loads((RESULTS / "strategies.json").read_text())
    overlap = json.loads((RESULTS / "overlap.json").read_text())
    planner = json.loads((RESULTS / "planner.json").read_text())
    pages = {
        ROOT / "README.md": _between_marks(ROOT / "README.md", readme_section(fidelity)),
        ROOT / "docs/strategies.md": _between_marks(ROOT / "docs/strategies.md", strategies_pages(strategies, overlap)),
        ROOT / "docs/planner.md": _between_marks(ROOT / "docs/planner.md", planner_page(planner)),
        ROOT / "docs/benchmarks.md": benchmarks_page(fidelity, codec, overhead, simulate) + links_pages(links, replay),
    }
    stale = [path for path, text in pages.items() if not path.exists() or path.read_text() != text]
    if check:
        names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
        print(f"not current: {names}; run `python -m bench page`" if stale else "benchmark pages are current")
        return 1 if stale else 0
    for path in stale:
        path.write_text(pages[path])
    return 0


def _between_marks(path: Path, section: str) -> str:
    """Return a page with `section` in the place of what stands between its marks."""
    before, rest = path.read_text().split(BEGIN, 1)
    return f"{before}{BEGIN}\n{section}\n{END}{rest.split(END, 1)[1]}"


def readme_section(fidelity: dict[str, Any]) -> str:
    return f"""{fidelity_table(fidelity)}

Picture by picture against CompactFusion's codecs, at their own bits and at a share of them:

{against_compactfusion(fidelity)}"""


def strategies_pages(strategies: dict[str, Any], overlap: dict[str, Any]) -> str:
    return f"""
## Pictures and bytes, measured

{strategies_section(strategies)}
{_provenance(strategies)}

## Hidden behind computing, measured

{overlap_section(overlap)}
{_provenance(overlap)}
"""


def planner_page(planner: dict[str, Any]) -> str:
    return f"{planner_section(planner)}\n\n{_provenance(planner)}"


def fidelity_table(result: dict[str, Any]) -> str:
    lines = [
        "| codec | order | bits per value | with key frames | median dB | worst tenth dB | SSIM | FLIP |",
        "|---|---|---|---|---|---|---|---|",
    ]
    kinds = dict.fromkeys((picture["codec"], picture["order"]) for picture in result["pictures"])
    for codec, order in sorted(kinds, key=lambda kind: (kind[0].startswith("cf-"), _bits(result, kind), kind[1])):
        rows = _rows(result, (codec, order))
        psnr = sorted(picture["psnr_db"] for picture in rows)
        predictor = "paper's" if codec.startswith("cf-") else str(order)
        lines.append(
            f"| {codec} | {predictor} | {_bits(result, (codec, order)):.2f} "
            f"| {median(picture['bits_per_value'] for picture in rows):.2f} | {median(psnr):.1f} "
            f"| {psnr[len(psnr) // 10]:.1f} | {median(picture['ssim'] for picture in rows):.4f} "
            f"| {_flip(rows)} |"
        )
    return "\n".join(lines)


def other_settings() -> str:
    """What was measured beside the main setting, a section for each file."""
    sections = []
    for path in sorted(RESULTS.glob("fidelity-*.json")):
        result = json.loads(path.read_text())
        setting = result["setting"]
        against = against_compactfusion(result)
        sections.append(
            f"### {setting['steps']} steps, guidance {setting['guidance']:g}, {setting['pixels']} px, "
            f"{setting['prompts']} prompts: {path.stem.removeprefix('fidelity-').replace('-', ' ')}\n\n"
            + "\n\n".join(filter(None, (fidelity_table(result), against, _provenance(result))))
        )
    return "\n\n".join(sections)


def against_compactfusion(result: dict[str, Any]) -> str:
    """Transform rungs beside CompactFusion's codecs, at its true rate and at the shares of it that were aimed at.

    Empty where a result has no two to compare.
    """
    lines = []
    kinds = list(dict.fromkeys((picture["codec"], picture["order"]) for picture in result["pictures"]))
    for paper, share, aim in AIMS:
        theirs = next((kind for kind in kinds if kind[0] == paper), None)
        if theirs is None:
            continue
        limit = share * _bits(result, theirs) * ROUNDING
        fitting = [
            kind for kind in kinds if kind[0].startswith("transform-") and NEAR * limit <= _bits(result, kind) <= limit
        ]
        if not fitting:
            continue
        ours = max(fitting, key=lambda kind: _bits(result, kind))
        psnr = {kind: {p["prompt"]: p["psnr_db"] for p in _rows(result, kind)} for kind in (ours, theirs)}
        gains = sorted(psnr[ours][prompt] - psnr[theirs][prompt] for prompt in psnr[theirs])
        worst = [sorted(psnr[kind].values())[len(gains) // 10] for kind in (ours, theirs)]
        lines.append(
            f"| {paper} | {_bits(result, theirs):.2f} | {share:g} | {ours[0]} | {_bits(result, ours):.2f} "
            f"| {median(gains):+.1f} dB | {gains[len(gains) // 10]:+.1f} dB | {aim} "
            f"| {worst[0]:.1f}, {worst[1]:.1f} dB |"
        )
    if not lines:
        return ""
    return "\n".join(
        [
            "| CompactFusion | bits | share of its bits | transform rung | bits | gain, median | gain, worst tenth "
            "| aim | worst tenth of ours, of theirs |",
            "|---|---|---|---|---|---|---|---|---|",
            *lines,
        ]
    )


def codec_table(result: dict[str, Any]) -> str:
    """Speed of the native kernel at the largest shape that was measured."""
    lines = [
        "| rung | block | bits per value | encode GB/s | decode GB/s | encode : copy | decode : copy | encode : eager "
        "| decode : eager |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    most = max(line["tensor_bytes"] for line in result["lines"])
    largest = [line for line in result["lines"] if line["tensor_bytes"] == most]
    eager = {(line["rung"], line["block_channels"]): line for line in largest if line["kernel"] == "eager"}
    for line in largest:
        if line["kernel"] != "native":
            continue
        encode, decode, copy = (line[f"{what}_seconds"] for what in ("encode", "decode", "copy"))
        slow = eager[line["rung"], line["block_channels"]]
        lines.append(
            f"| {line['rung']} | {line['block_channels'] or ''} | {line['millibits'] / 1000:.3f} "
            f"| {most / encode / 1e9:.2f} | {most / decode / 1e9:.2f} "
            f"| {encode / copy:.1f} | {decode / copy:.1f} | {slow['encode_seconds'] / encode:.0f}x faster "
            f"| {slow['decode_seconds'] / decode:.0f}x faster |"
        )
    return "\n".join(lines)


def benchmarks_page(
    fidelity: dict[str, Any], codec: dict[str, Any], overhead: dict[str, Any], simulate: dict[str, Any]
) -> str:
    setting = fidelity["setting"]
    ratios = sorted(off / plain for off, plain in zip(overhead["off_seconds"], overhead["plain_seconds"], strict=True))
    shares = "\n".join(
        f"| {share['millibits'] / 1000:g} bits | {share['codec_seconds'] / share['compute_seconds']:.3f} |"
        for share in overhead["codec"]
    )
    return f"""# Benchmarks

Made by `python -m bench page` from the raw figures in `docs/results/`. `python -m bench` lists all benchmarks.

## Fidelity

{setting["prompts"]} prompts of the in-box model, {setting["steps"]} steps, guidance {setting["guidance"]:g},
{setting["pixels"]} px. Every key and value of every image token goes through the codec, in {setting["shards"]} shards;
{setting["warmup_steps"]} step of each is a key frame ({setting["key_rung"]}). PSNR and SSIM against the uncoded sample
of the same seed, on pictures in [0, 1] before they are rounded to 8 bits; medians. FLIP is the mean of what a person
sees at 67 pixels per degree (Andersson et al. 2020; LPIPS needs weights that no package ships). Bits per value count
what travels after the key frame: codes, scales and headers; "with key frames" counts the whole run. Rows of
`cf-` are CompactFusion's math (arXiv 2507.17511) with its own first-order residual and a key frame in fp16, charged for
its fp16 scales and for no header. Worst tenth: a tenth of the pictures are worse.
Rows that begin with `transform-` need a calibration, which was made from other prompts and seeds.

{fidelity_table(fidelity)}

Picture by picture against CompactFusion's codecs, at their own bits after the key frame and at a share of them; last,
what a tenth of the pictures of each codec are worse than:

{against_compactfusion(fidelity)}

{_provenance(fidelity)}

{other_settings()}

## Speed of the codec

One core, tensors of {codec["lines"][-1]["rows"]:,} x {codec["lines"][-1]["channels"]:,} in
{codec["lines"][-1]["dtype"]}, order 2, full bases; the least of many repetitions. Copy is a plain copy of the same
tensor; eager the reference in torch. On a machine with other work (see the load below) single figures scatter by
several times, those to a copy most. Bytes are those of the uncompressed tensor. Peak memory of the whole process, with
all shapes and both kernels: {codec["peak_bytes"] / 2**20:,.0f} MiB.

{codec_table(codec)}

{_provenance(codec)}

## Overhead

Four forked ranks (ring 2 x ulysses 2) on the in-box model, picture by picture in turns. Mode Off over plain xfuser:
median {median(ratios):.4f}, least {ratios[0]:.4f}, most {ratios[-1]:.4f} of {len(ratios)} pairs.

Encode and decode seconds over computing seconds, of the slowest rank, key frames left out:

| rate | codec / computing |
|---|---|
{shares}

{_provenance(overhead)}

## The law against an oracle

{_simulated(simulate)}

{_provenance(simulate)}
"""


def links_pages(links: dict[str, Any], replay: dict[str, Any]) -> str:
    return f"""
## Over shaped links

{sweep_section(links)}

{_provenance(links)}

## The paper's setting, scaled down

{replay_section(replay)}

{_provenance(replay)}
"""


def _simulated(result: dict[str, Any]) -> str:
    setting, shared = result["setting"], result["shared"]
    table = ["| " + " | ".join(HEADINGS) + " |", "|---" * len(HEADINGS) + "|"]
    table += ["| " + " | ".join(row) + " |" for row in rows(result)]
    steady = [seed for row in result["scenarios"] if row["is_steady"] for seed in row["seeds"]]
    worst = max(seed["regret"] for seed in steady)
    costly = [row["name"] for row in result["scenarios"] if median(seed["regret"] for seed in row["seeds"]) > 0.02]
    timid = [row["name"] for row in result["scenarios"] if median(s["bits_given_away"] for s in row["seeds"]) > 0.2]
    restless = [
        row["name"]
        for row in result["scenarios"]
        if median(seed["switches_per_hundred_steps"] for seed in row["seeds"]) > 2
    ]
    return f"""Simulated: the real estimator and law, links that are made up or recorded, no waiting.
Steps compute 0.25 s, recorded ones as they did, {setting["noise"]:.0%} of noise on every window,
target {setting["target_stall_percent"]} %, {setting["seeds"]} seeds (median, worst in brackets), the first prompt left
out. The oracle knows every link of every step, changes its rate at once and for nothing. Regret: seconds above the
oracle's, of the steps that were slower than its, over all of its seconds. Bits given away: bits below the oracle's, of
the steps that had fewer, over all of its bits: what caution costs in fidelity. A drop is answered at the earliest 3
steps later: two slow windows, and one step to take hold.

![rates of the law and of the oracle](images/simulate.png)

{chr(10).join(table)}

Where the law loses:

- On steady links its regret is {worst:.1%} at most, over all seeds.
- More than 2 % slower than the oracle: {"; ".join(costly) or "none"}. Bursts end before two windows have shown them;
  waves and late, lost or missing telemetry make the answer late; an oracle knows them beforehand.
- More than a fifth of the bits given away: {"; ".join(timid) or "none"}. After a link has recovered the rate waits for
  three good windows and a dwell, which grows where the link goes up and down: seconds are kept, fidelity is not.
- More than 2 switches per 100 steps: {"; ".join(restless) or "none"}.
- {shared["jobs"]:,} jobs behind one uplink are each other's link. Compared with all of them at the best common rung,
  known in advance; they do not know of each other."""


def _rows(result: dict[str, Any], kind: tuple[str, int]) -> list[dict[str, Any]]:
    return [picture for picture in result["pictures"] if (picture["codec"], picture["order"]) == kind]


def _flip(rows: list[dict[str, Any]]) -> str:
    """Results from before FLIP was measured have none."""
    return f"{median(picture['flip'] for picture in rows):.4f}" if all("flip" in picture for picture in rows) else ""


def _bits(result: dict[str, Any], kind: tuple[str, int]) -> float:
    return float(median(picture["coded_bits_per_value"] for picture in _rows(result, kind)))


def _provenance(result: dict[str, Any]) -> str:
    facts = ", ".join(f"{key} {value}" for key, value in result["about"].items() if key != "command")
    return f"Command: `{result['about']['command']}`. Where: {facts}."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
