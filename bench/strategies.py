"""What every parallel strategy does to the in-box model's pictures, and what it sends: uncompressed and coded.

Each strategy runs in forked ranks, with the same prompts and seeds; its pictures are compared with those of one process
(what staleness and codec cost together) and with its own uncompressed ones (what the codec costs). A result file holds
the raw figures and goes on where it stopped; a contact sheet shows the pictures side by side.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy
import structlog
import torch
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table

from bench.about import about
from bench.in_box import in_box_model
from bench.prompts import MEASURED
from bench.strategies_page import HEADINGS, cells
from tests.harness.ranks import run_ranks
from thinwire.proto.thinwire.v1alpha1 import run_spec_pb2 as pb
from thinwire.runtime.facts import RecordingHooks
from thinwire.runtime.generate import Session
from thinwire.runtime.parallel import Launch
from thinwire.runtime.picture import Pixels, to_bytes
from thinwire.runtime.reference import Reference

STEPS, GUIDANCE_MILLI, PIXELS = 28, 3000, 64
RATES = {"uncompressed": 0, "4 bits": 4000, "2 bits": 2000, "1 bit": 1000}
STRATEGIES: dict[str, dict[str, int]] = {
    "ring 2": {"ring": 2},
    "ring 4": {"ring": 4},
    "ulysses 2": {"ulysses": 2},
    "ulysses 2 x ring 2": {"ulysses": 2, "ring": 2},
    "patch gather 2": {"ring": 2, "patch_mode": pb.PATCH_MODE_GATHER},
    "DistriFusion 2": {"ring": 2, "patch_mode": pb.PATCH_MODE_DISTRIFUSION},
    "DistriFusion 2 x ulysses 2": {"ring": 2, "ulysses": 2, "patch_mode": pb.PATCH_MODE_DISTRIFUSION},
    "PipeFusion 2": {"pipefusion": 2},
    "PipeFusion 2 x ulysses 2": {"pipefusion": 2, "ulysses": 2},
    "PipeFusion 2 x ring 2": {"pipefusion": 2, "ring": 2},
    "cfg 2": {"cfg": 2},
    "cfg 2 x ulysses 2": {"cfg": 2, "ulysses": 2},
    "cfg 2 x ring 2": {"cfg": 2, "ring": 2},
    "cfg 2 x DistriFusion 2": {"cfg": 2, "ring": 2, "patch_mode": pb.PATCH_MODE_DISTRIFUSION},
    "cfg 2 x PipeFusion 2": {"cfg": 2, "pipefusion": 2},
    "data 2 x ring 2": {"data": 2, "ring": 2},
}


@dataclass(frozen=True, slots=True)
class Made:
    """What rank 0 knows of a run."""

    pictures: list[Pixels]
    bytes_sent: int
    bytes_uncompressed_fp16: int


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench strategies", description=__doc__)
    parser.add_argument("--pictures", type=int, default=4, help="prompts, each made by every strategy at every rate")
    parser.add_argument("--seconds", type=float, default=0.0, help="begin no run after so long; 0 for no limit")
    parser.add_argument("--output", type=Path, default=Path("docs/results/strategies.json"))
    parser.add_argument("--sheet", type=Path, default=Path("docs/images/strategies.png"))
    args = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    console = Console()
    reference = Reference.open(_spec({}, 0, args.pictures))
    truth = [reference.generate_pixels(prompt) for prompt in _prompts(args.pictures)]
    kept = args.output.with_suffix(".npz")
    rows, sheet = _resumed(args.output, kept)
    runs = [(strategy, rate) for strategy in STRATEGIES for rate in RATES if f"{strategy}/{rate}" not in sheet]
    began = time.monotonic()
    for number, (strategy, rate) in enumerate(runs):
        if args.seconds and time.monotonic() - began > args.seconds:
            console.print(f"stopped, {len(runs) - number} runs left; run the same command again")
            break
        left = (time.monotonic() - began) / number * (len(runs) - number) if number else math.nan
        console.print(f"{strategy}, {rate} ... ({number + 1} of {len(runs)}, {left:.0f} s left)")
        degrees = STRATEGIES[strategy]
        ranks = math.prod(value for name, value in degrees.items() if name != "patch_mode")
        spec = _spec(degrees, RATES[rate], args.pictures)
        made: Made = run_ranks(ranks, make, spec, timeout_seconds=900)[0]
        own = [sheet[f"{strategy}/uncompressed"][index] for index in range(args.pictures)] if RATES[rate] else None
        rows.append(_row(strategy, rate, ranks, made, truth, own))
        sheet[f"{strategy}/{rate}"] = numpy.stack(made.pictures)
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(
            json.dumps({"about": about(), "setting": _setting(args.pictures), "rows": rows}, indent=1) + "\n"
        )
        numpy.savez(kept, **sheet)
    console.print(_table(rows))
    _draw(sheet, truth[0]).save(args.sheet)
    if len(sheet) == len(STRATEGIES) * len(RATES):
        kept.unlink(missing_ok=True)
    return 0


def make(launch: Launch, spec: pb.RunSpec) -> Made | None:
    """Make a spec's pictures in rounds."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    hooks, pictures = RecordingHooks(), list[Pixels]()
    session = Session.open(spec, hooks, launch)
    torch.set_num_threads(1)
    prompts = spec.generation.prompts
    for first in range(0, len(prompts), session.replicas):
        round_of = prompts[first : first + session.replicas]
        pictures += session.generate_pixels(round_of, first_job_step=first * spec.generation.steps)
    session.close()
    if launch.rank:
        return None
    return Made(pictures, hooks.steps[-1].bytes_sent, hooks.steps[-1].bytes_uncompressed_fp16)


def _prompts(pictures: int) -> list[pb.Prompt]:
    return [
        pb.Prompt(name=f"p{seed}", prompt=text, seed=seed) for seed, text in enumerate(MEASURED[:pictures], start=7)
    ]


def _spec(degrees: dict[str, Any], millibits: int, pictures: int) -> pb.RunSpec:
    mode = pb.COMPRESSION_MODE_FIXED if millibits else pb.COMPRESSION_MODE_OFF
    return pb.RunSpec(
        job_name="strategies",
        attempt=1,
        model=pb.Model(
            path=in_box_model(),
            pipeline="StableDiffusion3Pipeline",
            dtype=pb.DTYPE_FLOAT32,
        ),
        parallelism=pb.Parallelism(**degrees),
        compression=pb.Compression(
            mode=mode, min_millibits=millibits, max_millibits=millibits, warmup_steps=1, predictor_order=2
        ),
        generation=pb.Generation(
            prompts=_prompts(pictures), steps=STEPS, guidance_scale_milli=GUIDANCE_MILLI, height=PIXELS, width=PIXELS
        ),
    )


def _setting(pictures: int) -> dict[str, Any]:
    return {
        "model": "emoji (in-box)",
        "prompts": list(MEASURED[:pictures]),
        "steps": STEPS,
        "guidance_scale_milli": GUIDANCE_MILLI,
        "pixels": PIXELS,
        "warmup_steps": 1,
        "predictor_order": 2,
    }


def _row(
    strategy: str, rate: str, ranks: int, made: Made, truth: list[Pixels], own: list[Pixels] | None
) -> dict[str, Any]:
    raw = asdict(made)
    del raw["pictures"]
    return {
        "strategy": strategy,
        "rate": rate,
        "ranks": ranks,
        "psnr_db_to_one_process": [_psnr(*pair) for pair in zip(made.pictures, truth, strict=True)],
        "psnr_db_to_uncompressed": None
        if own is None
        else [_psnr(*pair) for pair in zip(made.pictures, own, strict=True)],
        **raw,
    }


def _psnr(one: Pixels, other: Pixels) -> float:
    error = float(numpy.square(one.astype(numpy.float64) - other).mean())
    return min(-10 * math.log10(error), 120.0) if error else 120.0


def _resumed(output: Path, kept: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    if not (output.exists() and kept.exists()):
        return [], {}
    with numpy.load(kept) as arrays:
        sheet = dict(arrays)
    rows = [row for row in json.loads(output.read_text())["rows"] if f"{row['strategy']}/{row['rate']}" in sheet]
    return rows, sheet


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(*HEADINGS, title="Strategies")
    for line in cells(rows, len(rows[0]["psnr_db_to_one_process"])):
        table.add_row(*line)
    return table


def _draw(sheet: dict[str, Any], truth: Pixels) -> Image.Image:
    """Draw the first prompt: a row for each strategy, a column for each rate, one process on top."""
    side, margin, left = 96, 6, 190
    width = left + len(RATES) * (side + margin)
    names = [name for name in STRATEGIES if f"{name}/{next(iter(RATES))}" in sheet]
    image = Image.new("RGB", (width, (len(names) + 1) * (side + margin) + 24), "white")
    draw = ImageDraw.Draw(image)

    def put(pixels: Pixels, column: int, row: int) -> None:
        small = Image.fromarray(to_bytes(pixels)).resize((side, side), Image.Resampling.NEAREST)
        image.paste(small, (left + column * (side + margin), 24 + row * (side + margin)))

    for column, rate in enumerate(RATES):
        draw.text((left + column * (side + margin), 6), rate, fill="black")
    for row, name in enumerate(["one process", *names]):
        draw.text((6, 24 + row * (side + margin) + side // 2), name, fill="black")
        for column, rate in enumerate(RATES):
            if row == 0 and column == 0:
                put(truth, column, row)
            elif f"{name}/{rate}" in sheet:
                put(sheet[f"{name}/{rate}"][0], column, row)
    return image
