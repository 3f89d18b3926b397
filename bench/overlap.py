"""How much of each strategy's transfers hides behind computing, and a ring's hops beside one gather, over shaped links.

Each rank is in its own network namespace behind a token bucket, with one thread. Every run is forked anew into the same
namespaces, the strategies take turns, and the interfaces' counters must have seen what the exchange says that it sent.
The result file grows run by run: the same command goes on where the last one stopped. Needs root.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import structlog
import torch
from rich.console import Console

from bench.about import about
from bench.in_box import in_box_model
from bench.prompts import MEASURED
from bench.strategies_page import overlap_section
from tests.harness.ranks import run_ranks
from tests.netlab.kernel import NetlabError
from tests.netlab.lab import INTERFACE, Lab
from tests.netlab.namespaces import enter
from thinwire.proto.thinwire.v1alpha1 import run_spec_pb2 as pb
from thinwire.runtime.facts import RecordingHooks
from thinwire.runtime.generate import Session
from thinwire.runtime.parallel import Launch

STEPS, GUIDANCE_MILLI, PIXELS, NODES = 14, 3000, 64, 4
FIRST_STEPS = 2
"""Left out: the key frame, and the step that makes what libraries make at first use."""
MEGABITS = (300, 80, 20)
RATES = {"whole": 16_000, "2 bits": 2000}
STRATEGIES: dict[str, dict[str, int]] = {
    "ring 2": {"ring": 2},
    "patch gather 2": {"ring": 2, "patch_mode": pb.PATCH_MODE_GATHER},
    "DistriFusion 2": {"ring": 2, "patch_mode": pb.PATCH_MODE_DISTRIFUSION},
    "PipeFusion 2": {"pipefusion": 2},
    "ring 4": {"ring": 4},
    "patch gather 4": {"ring": 4, "patch_mode": pb.PATCH_MODE_GATHER},
}


@dataclass(frozen=True, slots=True)
class Made:
    """One picture: medians over its steps; seconds and bytes of transfers as windows tell them."""

    step_seconds: float
    compute_seconds: float
    transfer_seconds: float
    hidden_seconds: float
    transfer_bytes: float
    sent_bytes: int
    """Of all ranks, in all steps."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench overlap", description=__doc__)
    parser.add_argument("--turns", type=int, default=3, help="runs of every strategy, rate and bandwidth")
    parser.add_argument("--seconds", type=float, default=0.0, help="begin no run after so long; 0 for no limit")
    parser.add_argument("--output", type=Path, default=Path("docs/results/overlap.json"))
    args = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    console = Console()
    told: dict[str, Any] = (
        json.loads(args.output.read_text()) if args.output.exists() else {"setting": _setting(), "runs": []}
    )
    done = {_key(run) for run in told["runs"]}
    planned: list[dict[str, Any]] = [
        {"strategy": strategy, "rate": rate, "megabits": megabits, "turn": turn}
        for turn in range(args.turns)
        for megabits in MEGABITS
        for rate in RATES
        for strategy in STRATEGIES
    ]
    missing = [run for run in planned if _key(run) not in done]
    began = time.monotonic()
    try:
        with Lab(NODES) as lab:
            for number, run in enumerate(missing):
                spent = time.monotonic() - began
                if args.seconds and spent > args.seconds:
                    console.print(f"stopped after {spent:.0f} s, {len(missing) - number} runs left; run it again")
                    break
                made = _made(lab, run)
                known = about()
                told["runs"].append({**run, **asdict(made), "commit": known["commit"], "load": known["load"]})
                told["about"] = known
                args.output.write_text(json.dumps(told, indent=1) + "\n")
                console.print(
                    f"[{number + 1}/{len(missing)}] {run['megabits']} Mbit/s, {run['rate']}, {run['strategy']}: step "
                    f"{1e3 * made.step_seconds:.0f} ms (computing {1e3 * made.compute_seconds:.0f}), hidden "
                    f"{100 * made.hidden_seconds / made.transfer_seconds:.0f} % of {1e3 * made.transfer_seconds:.0f} ms"
                )
    except NetlabError as error:
        console.print(str(error))
        return 2
    console.print(overlap_section(told))
    return 0


def _key(run: dict[str, Any]) -> tuple[Any, ...]:
    return run["strategy"], run["rate"], run["megabits"], run["turn"]


def _setting() -> dict[str, Any]:
    return {
        "model": "emoji (in-box)",
        "dtype": "bfloat16",
        "prompts": list(MEASURED),
        "steps": STEPS,
        "first_steps_left_out": FIRST_STEPS,
        "guidance_scale_milli": GUIDANCE_MILLI,
        "pixels": PIXELS,
        "rates_millibits": RATES,
    }


def _made(lab: Lab, run: dict[str, Any]) -> Made:
    degrees = STRATEGIES[run["strategy"]]
    ranks = degrees.get("ring", 1) * degrees.get("pipefusion", 1)
    lab.shape_all(1_000_000 * run["megabits"])
    names = [lab.namespace(node) for node in range(ranks)]
    before = [lab.counters(node) for node in range(ranks)]
    spec = _spec(degrees, RATES[run["rate"]], run["turn"])
    made: Made = run_ranks(ranks, make, spec, names, local_world_size=1, timeout_seconds=180)[0]
    lab.require_passed(before, made.sent_bytes, run["strategy"])
    return made


def make(launch: Launch, spec: pb.RunSpec, namespaces: list[str]) -> Made | None:
    """Make one picture with the other ranks, each in its own namespace. Collective."""
    enter(namespaces[launch.rank])
    os.environ["GLOO_SOCKET_IFNAME"] = INTERFACE
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    hooks = RecordingHooks()
    session = Session.open(spec, hooks, launch)
    torch.set_num_threads(1)
    session.generate_pixels(spec.generation.prompts, first_job_step=0)
    session.close()
    if launch.rank:
        return None
    steps = hooks.steps[FIRST_STEPS:]

    def middle(figure: str) -> float:
        return float(median(sum(getattr(window, figure) for window in facts.windows) for facts in steps))

    return Made(
        median(facts.step_seconds for facts in steps),
        median(facts.compute_seconds for facts in steps),
        middle("sum_seconds"),
        middle("hidden_seconds"),
        middle("sum_bytes"),
        hooks.steps[-1].bytes_sent,
    )


def _spec(degrees: dict[str, Any], millibits: int, turn: int) -> pb.RunSpec:
    return pb.RunSpec(
        job_name="overlap",
        attempt=1,
        model=pb.Model(path=in_box_model(), pipeline="StableDiffusion3Pipeline", dtype=pb.DTYPE_BFLOAT16),
        parallelism=pb.Parallelism(**degrees),
        compression=pb.Compression(
            mode=pb.COMPRESSION_MODE_FIXED,
            min_millibits=millibits,
            max_millibits=millibits,
            warmup_steps=1,
            predictor_order=2,
        ),
        generation=pb.Generation(
            prompts=[pb.Prompt(name="p", prompt=MEASURED[turn], seed=turn)],
            steps=STEPS,
            guidance_scale_milli=GUIDANCE_MILLI,
            height=PIXELS,
            width=PIXELS,
        ),
    )
