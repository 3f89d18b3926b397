"""Does the cost model of `thinwire plan` rank strategies as they are measured? Two ranks, emulated links.

Every strategy makes a picture of the in-box model at every bandwidth, uncompressed and at a fixed rate. The model is
told three figures only: what one rank alone needs for a step, measured here, the bandwidth, which is emulated, and
what a collective costs without bytes, measured here too. Ratios of seconds per picture; the best strategy of each cell
named by both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.about import about
from tests.harness.ranks import run_ranks
from thinwire.controller.manifest.job import DiffusionJob
from thinwire.controller.manifest.preflight.model_folder import ModelFacts, read_model
from thinwire.controller.manifest.run_spec import run_spec
from thinwire.controller.manifest.validate import validate
from thinwire.controller.planner.cost import predict
from thinwire.controller.planner.job_plan import attention_of, plan_with
from thinwire.controller.planner.layout import LinkClass
from thinwire.controller.planner.machine import Link, Machine, Source, assumed
from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import EmulatedLinkPhase
from thinwire.runtime.facts import RecordingHooks
from thinwire.runtime.generate import Session
from thinwire.runtime.parallel import Launch

STRATEGIES = ({"ring": 2}, {"ulysses": 2}, {"cfg": 2}, {"data": 2})
MODES: tuple[tuple[str, int], ...] = (("Off", 16_000), ("Fixed", 4_000))
MEGABITS = (5, 20, 100)
_FAST_MEGABITS = 100_000


@dataclass(frozen=True)
class Cell:
    """One strategy at one bandwidth in one mode: seconds per picture, predicted and measured."""

    strategy: str
    mode: str
    megabits: int
    predicted_seconds: float
    measured_seconds: float


def job_of(degrees: dict[str, int], mode: str, millibits: int, steps: int) -> DiffusionJob:
    gpus = 1
    for degree in degrees.values():
        gpus *= degree
    prompts = [{"name": f"p{number}", "prompt": "a red heart"} for number in range(degrees.get("data", 1))]
    raw: dict[str, Any] = {
        "apiVersion": "thinwire.dev/v1alpha1",
        "kind": "DiffusionJob",
        "metadata": {"name": "planner"},
        "spec": {
            "model": {"source": {"bundled": "emoji"}},
            "gpus": gpus,
            "gpusPerPod": gpus,
            "accelerator": "cpu",
            "parallelism": degrees,
            "compression": {"mode": mode, "rate": {"minMillibits": millibits, "maxMillibits": millibits}},
            "generation": {"height": 64, "width": 64, "steps": steps, "prompts": prompts},
        },
    }
    refusals = validate(raw)
    assert not refusals, refusals
    return DiffusionJob.from_raw(raw)


def live(launch: Launch, written: bytes, pictures: int) -> list[float]:
    """Make pictures in one rank of several; return every step's seconds but those of the first picture."""
    from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import RunSpec

    torch.set_num_threads(1)
    spec, hooks = RunSpec.FromString(written), RecordingHooks()
    session = Session.open(spec, hooks, launch)
    try:
        for number in range(pictures + 1):
            session.generate_pixels(spec.generation.prompts, first_job_step=number * spec.generation.steps)
    finally:
        session.close()
    return [step.step_seconds for step in hooks.steps[spec.generation.steps :]]


def step_seconds(job: DiffusionJob, megabits: int | None, pictures: int) -> list[float]:
    link = [] if megabits is None else [EmulatedLinkPhase(bits_per_second=megabits * 10**6)]
    spec = run_spec(job, attempt=1, output_dir=Path("/nowhere"), emulated_link=link)
    return run_ranks(job.gpus, live, spec.SerializeToString(), pictures, timeout_seconds=300)[0]


def machine_of(facts: ModelFacts, alone_seconds: float, fixed_seconds: float, megabits: int, steps: int) -> Machine:
    machine = assumed(attention_of(job_of({}, "Off", 16_000, steps), facts), on_cpu=True)
    link = Link(megabits * 1e6 / 8, fixed_seconds, Source.GIVEN)
    return replace(
        machine, step_seconds=alone_seconds, step_source=Source.MEASURED, links=dict.fromkeys(LinkClass, link)
    )


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench planner", description=__doc__)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--pictures", type=int, default=2, help="timed pictures of each cell, after one that is not")
    parser.add_argument("--megabits", type=int, nargs="+", default=MEGABITS, help="emulated bandwidths")
    parser.add_argument("--output", type=Path, help="write JSON with raw figures")
    args = parser.parse_args(arguments)
    facts = read_model(job_of({}, "Off", 16_000, args.steps).model)
    assert facts is not None
    alone = statistics.median(step_seconds(job_of({}, "Off", 16_000, args.steps), None, args.pictures))
    ring = job_of({"ring": 2}, "Off", 16_000, args.steps)
    unhindered = statistics.median(step_seconds(ring, _FAST_MEGABITS, args.pictures))
    (link,) = plan_with(ring, facts).links
    fixed = max(0.0, unhindered - alone / 2) / link.operations_per_step
    cells = []
    wanted = [(mode, rate, degrees) for mode in MODES for rate in args.megabits for degrees in STRATEGIES]
    for (mode, millibits), megabits, degrees in track(wanted, "measuring", console=Console(stderr=True)):
        job = job_of(degrees, mode, millibits, args.steps)
        predicted = predict(job, plan_with(job, facts), machine_of(facts, alone, fixed, megabits, args.steps))
        measured = step_seconds(job, megabits, args.pictures)
        share = args.steps / degrees.get("data", 1)
        name = " x ".join(f"{dimension} {degree}" for dimension, degree in degrees.items())
        cells.append(
            Cell(name, mode, megabits, predicted.job_seconds / degrees.get("data", 1), _mean(measured) * share)
        )
    verdict = judged(cells)
    _print(cells, alone, fixed, verdict)
    if args.output is not None:
        raw = {"about": about(), "alone_seconds": alone, "fixed_seconds": fixed, "verdict": verdict}
        args.output.write_text(json.dumps({**raw, "cells": [asdict(cell) for cell in cells]}, indent=1) + "\n")
    return 0


def judged(cells: list[Cell]) -> dict[str, float]:
    """Say how well prediction ranks: share of pairs in the right order (pairs within a tenth count for neither), share
    of cells whose best strategy is predicted, what the predicted best costs over the best, and the ratios.
    """
    right = wrong = best = 0
    regret = []
    groups = {(cell.mode, cell.megabits) for cell in cells}
    for group in groups:
        own = [cell for cell in cells if (cell.mode, cell.megabits) == group]
        for number, one in enumerate(own):
            for other in own[number + 1 :]:
                if abs(one.measured_seconds / other.measured_seconds - 1) > 0.1:
                    alike = (one.measured_seconds < other.measured_seconds) == (
                        one.predicted_seconds < other.predicted_seconds
                    )
                    right, wrong = right + alike, wrong + (not alike)
        fastest = min(own, key=lambda cell: cell.measured_seconds)
        chosen = min(own, key=lambda cell: cell.predicted_seconds)
        best += fastest is chosen
        regret.append(chosen.measured_seconds / fastest.measured_seconds)
    ratios = sorted(cell.predicted_seconds / cell.measured_seconds for cell in cells)
    return {
        "pairs_in_order": right / max(1, right + wrong),
        "pairs": right + wrong,
        "best_predicted": best / len(groups),
        "worst_regret": max(regret),
        "median_ratio": statistics.median(ratios),
        "least_ratio": ratios[0],
        "most_ratio": ratios[-1],
    }


def _mean(seconds: list[float]) -> float:
    """Mean of all steps, key frames included, but for the slowest tenth: those are pauses of the machine."""
    return statistics.fmean(sorted(seconds)[: max(1, round(0.9 * len(seconds)))])


def _print(cells: list[Cell], alone: float, fixed: float, verdict: dict[str, float]) -> None:
    console = Console(width=110)
    table = Table(title=f"seconds per picture; one rank alone {alone:.3f} s a step, a collective {1e3 * fixed:.2f} ms")
    for heading in ("strategy", "mode", "Mbit/s", "predicted", "measured", "ratio"):
        table.add_column(heading, justify="left" if heading in ("strategy", "mode") else "right")
    for cell in cells:
        ratio = cell.predicted_seconds / cell.measured_seconds
        figures = (f"{cell.predicted_seconds:.3f}", f"{cell.measured_seconds:.3f}", f"{ratio:.2f}")
        table.add_row(cell.strategy, cell.mode, str(cell.megabits), *figures)
    console.print(table)
    console.print(
        f"{100 * verdict['pairs_in_order']:.0f} % of {verdict['pairs']:.0f} pairs in the measured order; "
        f"best strategy predicted in {100 * verdict['best_predicted']:.0f} % of cells, "
        f"at worst {verdict['worst_regret']:.2f} times the best; "
        f"predicted / measured {verdict['median_ratio']:.2f}, "
        f"{verdict['least_ratio']:.2f} to {verdict['most_ratio']:.2f}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
