"""The paper's setting, scaled down: FLUX's shapes and step time, fewer tokens over a really shaped thinner link.

CompactFusion's table (arXiv 2507.17511: FLUX.1-dev, 28 steps, 4 GPUs; one GPU takes 28.06 s) has the seconds of a
picture at 0.5 and 2 GB/s. Here 4 ranks exchange what FLUX's 57 layers would, tokens and bandwidth both divided by
`--scale`, so that a transfer takes as long as there. Computing is replaced by waiting, a quarter of the single GPU's
time. Collectives and links are real; parcels are as long as the codec's frames and hold zeros, for what the codec
computes on this machine would be no GPU's time: it is left out, of thinwire's and of CompactFusion's rungs alike. Needs
root.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table

from bench.about import about
from bench.sweep.compactfusion_rungs import COMPACTFUSION_RUNGS
from tests.harness.ranks import run_ranks
from tests.netlab.kernel import NetlabError
from tests.netlab.lab import INTERFACE, Lab
from tests.netlab.namespaces import enter
from thinwire.compression import BITS1, BITS2, INT4, INT8, RAW, Rung, TransformRung, frame_bytes
from thinwire.runtime.exchange.meter import StepMeter
from thinwire.runtime.exchange.moment import Moment
from thinwire.runtime.exchange.pacing import Pacer
from thinwire.runtime.exchange.wire import Neighbours, Wire
from thinwire.runtime.parallel import Launch, LinkClass

RANKS = 4
LAYERS, TOKENS, CHANNELS = 57, 4_608, 3_072
"""FLUX.1-dev at 1024 px: 19 double and 38 single blocks, 4,096 image and 512 text tokens, 24 heads of 128."""
STEPS, ONE_GPU_SECONDS = 28, 28.06
PAPER_SECONDS = {
    0.5: {"ring": 136.5, "Ulysses": 75.6, "cf-1bit": 20.9, "cf-2bit": 27.5},
    2.0: {"ring": 44.4, "Ulysses": 30.7, "cf-1bit": 13.9, "cf-2bit": 16.1},
}
_DTYPE = torch.bfloat16


@dataclass(frozen=True, slots=True)
class Variant:
    """What travels: whole values (no rung) by ring or Ulysses, or a rung's frames by ring; key frames by their own."""

    name: str
    rung: Rung | None = None
    key_rung: Rung = RAW
    ulysses: bool = False


VARIANTS = (
    Variant("ring"),
    Variant("Ulysses", ulysses=True),
    *(Variant(rung.name, rung) for rung in COMPACTFUSION_RUNGS[:2]),
    Variant("thinwire int4", INT4, INT8),
    Variant("thinwire bits2", BITS2, INT8),
    Variant("thinwire bits1", BITS1, INT8),
    Variant("thinwire transform-500", TransformRung(500), INT8),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Seconds of the steps that were run: one key frame and some coded ones, rank 0's clock."""

    gigabytes_per_second: float
    variant: str
    key_step_seconds: float
    step_seconds: tuple[float, ...]

    @property
    def picture_seconds(self) -> float:
        """Of 28 steps, the first of them a key frame."""
        return self.key_step_seconds + (STEPS - 1) * median(self.step_seconds)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench replay", description=__doc__)
    parser.add_argument("--scale", type=int, default=256, help="tokens and bandwidth are divided by it")
    parser.add_argument("--steps", type=int, default=3, help="coded steps of each variant that are really run")
    parser.add_argument("--variants", default="", help="names, separated by commas; default: all")
    parser.add_argument("--output", type=Path, default=None, help="JSON file for the raw figures")
    args = parser.parse_args(arguments)
    chosen = [variant for variant in VARIANTS if not args.variants or variant.name in args.variants.split(",")]
    if args.steps < 1 or args.scale < 1 or TOKENS // args.scale < RANKS or not chosen:
        parser.error(f"expected at least 1 step, a scale up to {TOKENS // RANKS} and known variants")
    os.environ["OMP_NUM_THREADS"] = "1"
    console, outcomes = Console(), []
    try:
        with Lab(RANKS) as lab:
            names = [lab.namespace(node) for node in range(RANKS)]
            for gigabytes in PAPER_SECONDS:
                lab.shape_all(round(8e9 * gigabytes / args.scale))
                for variant in chosen:
                    outcome = Outcome(
                        gigabytes,
                        variant.name,
                        *run_ranks(
                            RANKS,
                            replay,
                            variant,
                            args.scale,
                            args.steps,
                            names,
                            local_world_size=1,
                            timeout_seconds=300,
                        )[0],
                    )
                    outcomes.append(outcome)
                    console.print(f"{gigabytes} GB/s, {variant.name}: {outcome.picture_seconds:.1f} s a picture")
    except NetlabError as error:
        console.print(str(error))
        return 2
    console.print(_table(outcomes))
    if args.output is not None:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        setting = {"scale": args.scale, "paper_seconds": PAPER_SECONDS, "one_gpu_seconds": ONE_GPU_SECONDS}
        told = [asdict(outcome) | {"picture_seconds": outcome.picture_seconds} for outcome in outcomes]
        args.output.write_text(json.dumps({"about": about(), "setting": setting, "outcomes": told}, indent=1) + "\n")
    return 0


def replay(
    launch: Launch, variant: Variant, scale: int, steps: int, namespaces: Sequence[str]
) -> tuple[float, tuple[float, ...]]:
    """Exchange and wait as long as the steps would compute; seconds of the key frame's step and of the others."""
    enter(namespaces[launch.rank])
    os.environ["GLOO_SOCKET_IFNAME"] = INTERFACE
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=launch.init_method,
        rank=launch.rank,
        world_size=launch.world_size,
        timeout=timedelta(seconds=launch.timeout_seconds),
    )
    peers = Neighbours(dist.group.WORLD, tuple(range(RANKS)), launch.rank, LinkClass.INTER_NODE)  # type: ignore[arg-type]
    wire = Wire(torch.device("cpu"), Pacer(()), Moment(), StepMeter())
    seconds = []
    for number in range(-1, 1 + steps):  # -1 makes connections
        dist.barrier()
        began = time.perf_counter()
        for _ in range(2 if number < 0 else LAYERS):
            time.sleep(ONE_GPU_SECONDS / RANKS / STEPS / LAYERS)
            _exchange(wire, peers, variant, _parcel_bytes(variant, scale, key_frame=number == 0))
        dist.barrier()
        seconds.append(time.perf_counter() - began)
    return seconds[1], tuple(seconds[2:])


def _parcel_bytes(variant: Variant, scale: int, *, key_frame: bool) -> int:
    """Bytes of one tensor of one rank's tokens, at full size over `scale`: scales and headers keep their shares."""
    rung = variant.key_rung if key_frame and variant.rung is not None else variant.rung
    rows = TOKENS // RANKS
    whole = rows * CHANNELS * _DTYPE.itemsize if rung is None else frame_bytes(rung, rows, CHANNELS, _DTYPE)
    return round(whole / scale)


def _exchange(wire: Wire, peers: Neighbours, variant: Variant, tensor_bytes: int) -> None:
    """A layer's: key and value to all others by ring; query, key and value there and the output back by Ulysses."""
    if variant.ulysses:
        each = tensor_bytes // RANKS
        for tensors in (3, 1):
            parcels = torch.zeros((RANKS - 1) * tensors * each, dtype=torch.uint8)
            wire.all_to_all(parcels, tensors * each, peers, values=0)
    else:
        wire.all_gather(torch.zeros(2 * tensor_bytes, dtype=torch.uint8), peers, values=0)


def _table(outcomes: Sequence[Outcome]) -> Table:
    table = Table("link", "variant", "picture s", "paper's s", "faster than ring", "paper's", title="Scaled replay")
    rings = {outcome.gigabytes_per_second: outcome.picture_seconds for outcome in outcomes if outcome.variant == "ring"}
    for outcome in outcomes:
        paper = PAPER_SECONDS[outcome.gigabytes_per_second]
        theirs, ring = paper.get(outcome.variant), rings.get(outcome.gigabytes_per_second)
        table.add_row(
            f"{outcome.gigabytes_per_second:g} GB/s",
            outcome.variant,
            f"{outcome.picture_seconds:.1f}",
            f"{theirs:.1f}" if theirs else "",
            f"{ring / outcome.picture_seconds:.1f}" if ring else "",
            f"{paper['ring'] / theirs:.1f}" if theirs else "",
        )
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
