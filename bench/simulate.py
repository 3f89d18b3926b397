"""The rate law on recorded and made-up links, against an oracle that knows every link: regret and switches.

No processes, no network, no waiting: the estimator and the law are the real ones, seconds are numbers. Regret counts
only steps that were slower than the oracle's; bits given away only steps with fewer bits than the oracle's.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.about import about
from bench.simulator.compare import NOISE, STALL_PERCENT, Outcome, compare
from bench.simulator.plot import draw
from bench.simulator.scenarios import Scenario, scenarios
from bench.simulator.table import HEADINGS, rows
from bench.simulator.uplink import fixed_rungs, share

FIGURES = ("regret", "step_time_ratio", "bits_given_away", "switches_per_hundred_steps", "steps_to_adapt")
SHARED_STEPS = 112
SHARED_BYTES_PER_SECOND_AND_JOB = 15e6


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench simulate", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="runs of every scenario")
    parser.add_argument("--jobs", type=int, default=1000, help="that share one uplink; 0 leaves them out")
    parser.add_argument("--only", default="", help="scenarios whose name contains this")
    parser.add_argument("--output", type=Path, default=None, help="JSON file for the raw figures")
    parser.add_argument("--plot", type=Path, default=None, help="PNG file; needs all scenarios")
    args = parser.parse_args(arguments)
    chosen = [scenario for scenario in scenarios() if args.only in scenario.name]
    if args.seeds < 1 or args.jobs < 0 or (not chosen and not args.jobs):
        parser.error(
            f"expected at least 1 seed, 0 jobs and a known scenario, got {args.seeds}, {args.jobs}, {args.only!r}"
        )
    if args.plot is not None and args.only:
        parser.error("--plot: expected all scenarios, got --only; leave one of them out")
    console = Console()
    with Progress(console=console) as progress:
        told = _rows(chosen, args.seeds, progress)
        shared = _shared(args.jobs, progress) if args.jobs else None
    result = {
        "setting": {"noise": NOISE, "target_stall_percent": STALL_PERCENT, "seeds": args.seeds},
        "scenarios": told,
        "shared": shared,
    }
    console.print(_table(result))
    if args.output is not None:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps({"about": about(), **result}) + "\n")
    if args.plot is not None:
        draw(result, args.plot)
    return 0


def _rows(chosen: list[Scenario], seeds: int, progress: Progress) -> list[dict[str, Any]]:
    task = progress.add_task("scenarios", total=len(chosen) * seeds)
    told = []
    for scenario in chosen:
        outcomes = []
        for seed in range(seeds):
            outcomes.append(_raw(compare(scenario, seed)))
            progress.advance(task)
        told.append({"name": scenario.name, "is_steady": scenario.is_steady, "seeds": outcomes})
    return told


def _raw(outcome: Outcome) -> dict[str, Any]:
    raw = asdict(outcome) | {figure: getattr(outcome, figure) for figure in FIGURES}
    for seconds in ("law_seconds", "oracle_seconds"):
        raw[seconds] = [float(f"{one:.4g}") for one in raw[seconds]]
    for series in ("law_seconds", "oracle_seconds", "law_rates", "oracle_rates"):
        if outcome.seed:  # the first seed stands for all step by step: every run is made again by its seed
            del raw[series]
    for switch in raw["switches"]:
        del switch["reason"]
    return raw


def _shared(jobs: int, progress: Progress) -> dict[str, Any]:
    capacity = jobs * SHARED_BYTES_PER_SECOND_AND_JOB
    rungs = fixed_rungs()
    task = progress.add_task(f"{jobs} jobs, one uplink", total=(1 + len(rungs)) * jobs * SHARED_STEPS)

    def told(finished: int) -> None:
        if finished % SHARED_STEPS == 0:
            progress.advance(task, SHARED_STEPS)

    law = share(jobs, SHARED_STEPS, capacity, told=told)
    fixed = {rung.name: share(jobs, SHARED_STEPS, capacity, fixed=rung, told=told).mean_step_seconds for rung in rungs}
    budget = law.mean_compute_seconds * (1 + STALL_PERCENT / 100)
    best = next((name for name, seconds in fixed.items() if seconds <= budget), min(fixed, key=fixed.__getitem__))
    return {"jobs": jobs, "bytes_per_second": capacity, "fixed_seconds": fixed, "best": best, **asdict(law)}


def _table(result: dict[str, Any]) -> Table:
    table = Table(title="The law against an oracle (median, worst of all seeds)")
    for heading in HEADINGS:
        table.add_column(heading)
    for row in rows(result):
        table.add_row(*row)
    return table
