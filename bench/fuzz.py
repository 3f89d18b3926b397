"""Mutated gRPC calls by the hundred thousand at a live controller: it survives, and an honest rank is heard meanwhile.

The server is a process of its own, with TLS, tokens and rights; what it asks of the API server is answered by the
benchmark. Every call has a seed: --first-seed SEED --messages 1 sends one again. Beside the attack one rank reports
every 50 ms and one person asks for its status; memory is read before, meanwhile and after. Counted are the
attack's messages that the server has read: what follows the one that ended a stream is never looked at.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table

from bench.about import about
from tests.controller.fuzz.attack import Outcome, attack, target


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench fuzz", description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000, help="that the server is to read (100000)")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=None, help="JSON file for the raw figures")
    args = parser.parse_args(arguments)
    begun = time.perf_counter()
    columns = (*Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn())
    with (
        tempfile.TemporaryDirectory() as folder,
        target(Path(folder)) as attacked,
        Progress(*columns, console=Console(stderr=True)) as progress,
    ):
        task = progress.add_task("messages", total=args.messages)
        outcome = attack(
            attacked,
            args.first_seed,
            args.messages,
            lambda done: progress.update(task, completed=min(done, args.messages)),
        )
    seconds = time.perf_counter() - begun
    console = Console()
    console.print(_table(outcome))
    for wrong in outcome.wrong[:20]:
        console.print(wrong)
    console.print(_said(outcome, seconds))
    if args.output is not None:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(_result(outcome, args.first_seed, seconds), indent=1) + "\n")
    return 1 if outcome.wrong else 0


def _table(outcome: Outcome) -> Table:
    table = Table("answer", "messages", title=f"{outcome.sent} messages in {outcome.calls} calls, {outcome.read} read")
    for code, count in outcome.codes.most_common():
        table.add_row(code, str(count))
    return table


def _said(outcome: Outcome, seconds: float) -> str:
    slowest = max(outcome.calm_answer_seconds)
    return (
        f"{len(outcome.wrong)} wrong; {outcome.read / seconds:.0f} messages read a second; honest rank: "
        f"{outcome.calm_steps} steps heard, status answered in {statistics.median(outcome.calm_answer_seconds):.4f} s "
        f"(median), {slowest:.3f} s (slowest of {len(outcome.calm_answer_seconds)}); server's memory "
        f"{outcome.memory_before_bytes / 2**20:.0f} MiB before, {outcome.memory_peak_bytes / 2**20:.0f} at most, "
        f"{outcome.memory_after_bytes / 2**20:.0f} after"
    )


def _result(outcome: Outcome, first_seed: int, seconds: float) -> dict[str, object]:
    return {
        "about": about(),
        "first_seed": first_seed,
        "messages_sent": outcome.sent,
        "messages_read": outcome.read,
        "calls": outcome.calls,
        "raw_connections": outcome.connections,
        "kinds": dict(outcome.kinds),
        "answers": dict(outcome.codes),
        "wrong": outcome.wrong,
        "honest_steps": outcome.calm_steps,
        "honest_answers": len(outcome.calm_answer_seconds),
        "honest_answer_median_seconds": statistics.median(outcome.calm_answer_seconds),
        "honest_answer_slowest_seconds": max(outcome.calm_answer_seconds),
        "memory_before_bytes": outcome.memory_before_bytes,
        "memory_peak_bytes": outcome.memory_peak_bytes,
        "memory_after_bytes": outcome.memory_after_bytes,
        "seconds": seconds,
    }
