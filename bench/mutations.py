"""Damaged frames by the million: none may be accepted, crash the receiver, move its state or grow its memory.

Every batch has a seed that draws a receiver (rung, shape, dtype, predictor, kernel) and its frames; a batch is repeated
with --first-seed SEED --frames N --batch N. Frames whose payload was changed and given a fitting CRC-32 (`forged`) may
be read, as something finite.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table

from bench.about import about
from tests.compression.attacks.mutations import TARGETS, Outcome, attack

LARGEST_GROWTH_BYTES = 32 << 20


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench mutations", description=__doc__)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=1_000, help="frames for each seed (1000)")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=None, help="JSON file for the raw figures")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    begun, whole = time.perf_counter(), Outcome()
    for warm in range(len(TARGETS)):  # kernels, tables and allocators are in place before memory is measured
        attack(args.first_seed + warm, 10)
    peak_before = _peak_bytes()
    seed = args.first_seed
    columns = (*Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("frames", total=args.frames)
        while whole.frames < args.frames:
            whole.add(attack(seed, min(args.batch, args.frames - whole.frames)))
            progress.update(task, completed=whole.frames)
            seed += 1
    growth = _peak_bytes() - peak_before
    console = Console()
    console.print(_table(whole))
    for wrong in whole.wrong[:20]:
        console.print(wrong)
    console.print(f"{len(whole.wrong)} wrong; peak memory grew by {growth / 2**20:.1f} MiB")
    if args.output is not None:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        result = {
            "about": about(),
            "frames": whole.frames,
            "first_seed": args.first_seed,
            "last_seed": seed - 1,
            "frames_for_each_seed": args.batch,
            "kinds": dict(whole.kinds),
            "refusals": dict(whole.refusals),
            "forged_and_read": whole.forged_read,
            "wrong": whole.wrong,
            "peak_growth_bytes": growth,
            "seconds": time.perf_counter() - begun,
        }
        args.output.write_text(json.dumps(result, indent=1) + "\n")
    return 1 if whole.wrong or growth > LARGEST_GROWTH_BYTES else 0


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _table(whole: Outcome) -> Table:
    table = Table("what came of it", "frames", title=f"{whole.frames} damaged frames")
    for refusal, count in whole.refusals.most_common():
        table.add_row(f"refused: {refusal}", str(count))
    table.add_row("forged, read as another tensor", str(whole.forged_read))
    return table
