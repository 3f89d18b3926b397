"""Does the cost model of `thinwire plan` rank strategies as they are measured? Two ranks, emulated links.

Every strategy makes a picture of the in-box model at every bandwidth, uncompressed and at a fixed rate. The model is
told three figures only: what one rank alone needs for a step, measured here, the bandwidth, which is emulated, and
what a collective costs without bytes, measured here too. Ratios of seconds per picture; the best strategy of each cell
named by both. The result file grows cell by cell: the same command goes on where the last one stopped.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from bench.about import about
from bench.planner_page import planner_section
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
    seconds: list[float] = run_ranks(job.gpus, live, spec.SerializeToString(), pictures, timeout_seconds=300)[0]
    return seconds


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
    parser.add_argument("--seconds", type=float, default=0.0, help="begin no cell after so long; 0 for no limit")
    parser.add_argument("--output", type=Path, default=Path("docs/results/planner.json"))
    args = parser.parse_args(arguments)
    facts = read_model(job_of({}, "Off", 16_000, args.steps).model)
    assert facts is not None
    console, began = Console(stderr=True), time.monotonic()
    told = json.loads(args.output.read_text()) if args.output.exists() else {"cells": []}
    if "alone_seconds" not in told:
        told |= _machine_figures(facts, args.steps, args.pictures)
    done = {_key(cell) for cell in told["cells"]}
    wanted = [
        {"strategy": _name(degrees), "mode": mode, "megabits": rate, "millibits": millibits, "degrees": degrees}
        for mode, millibits in MODES
        for rate in args.megabits
        for degrees in STRATEGIES
    ]
    missing = [cell for cell in wanted if _key(cell) not in done]
    for number, cell in enumerate(missing):
        spent = time.monotonic() - began
        if args.seconds and spent > args.seconds:
            console.print(f"stopped after {spent:.0f} s, {len(missing) - number} cells left; run it again")
            break
        made = _measured(cell, facts, told, args.steps, args.pictures)
        known = about()
        told["cells"].append({**asdict(made), "commit": known["commit"], "load": known["load"]})
        told |= {"about": known, "verdict": judged([_cell(one) for one in told["cells"]])}
        args.output.write_text(json.dumps(told, indent=1) + "\n")
        console.print(
            f"[{number + 1}/{len(missing)}] {made.strategy}, {made.mode}, {made.megabits} Mbit/s: "
            f"{made.predicted_seconds:.2f} s a picture predicted, {made.measured_seconds:.2f} measured"
        )
    Console(width=110).print(planner_section(told))
    return 0


def _machine_figures(facts: ModelFacts, steps: int, pictures: int) -> dict[str, float]:
    """Measure what the model is told: a step of one rank alone, and a collective of a ring without bytes."""
    alone = statistics.median(step_seconds(job_of({}, "Off", 16_000, steps), None, pictures))
    ring = job_of({"ring": 2}, "Off", 16_000, steps)
    unhindered = statistics.median(step_seconds(ring, _FAST_MEGABITS, pictures))
    (link,) = plan_with(ring, facts).links
    return {"alone_seconds": alone, "fixed_seconds": max(0.0, unhindered - alone / 2) / link.operations_per_step}


def _measured(wanted: dict[str, Any], facts: ModelFacts, told: dict[str, Any], steps: int, pictures: int) -> Cell:
    degrees, megabits = wanted["degrees"], wanted["megabits"]
    job, replicas = job_of(degrees, wanted["mode"], wanted["millibits"], steps), degrees.get("data", 1)
    machine = machine_of(facts, told["alone_seconds"], told["fixed_seconds"], megabits, steps)
    predicted = predict(job, plan_with(job, facts), machine).job_seconds / replicas
    measured = _mean(step_seconds(job, megabits, pictures)) * steps / replicas
    return Cell(wanted["strategy"], wanted["mode"], megabits, predicted, measured)


def _name(degrees: dict[str, int]) -> str:
    return " x ".join(f"{dimension} {degree}" for dimension, degree in degrees.items())


def _key(cell: dict[str, Any]) -> tuple[Any, ...]:
    return cell["strategy"], cell["mode"], cell["megabits"]


def _cell(told: dict[str, Any]) -> Cell:
    return Cell(**{field.name: told[field.name] for field in fields(Cell)})


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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
