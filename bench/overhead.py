"""What thinwire costs where it must not: mode Off against plain xfuser, and codec seconds against computing seconds.

Both in one process layout, four forked ranks (ring 2 x ulysses 2), interleaved picture by picture; medians with least
and most, and ratios, never bare times.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from bench.about import about
from bench.in_box import in_box_model
from tests.harness.ranks import run_ranks
from thinwire.proto.thinwire.v1alpha1 import run_spec_pb2 as pb
from thinwire.runtime.facts import NoHooks, RecordingHooks
from thinwire.runtime.generate import Session
from thinwire.runtime.parallel import Launch
from thinwire.runtime.reference import call_arguments

RATES = (4000, 3000, 2000, 1000)


@dataclass(frozen=True, slots=True)
class CodecShare:
    """Seconds over all coded steps of the slowest rank."""

    millibits: int
    codec_seconds: float
    compute_seconds: float

    @property
    def share(self) -> float:
        return self.codec_seconds / self.compute_seconds


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench overhead", description=__doc__)
    parser.add_argument("--model", default=None, help="folder of a pipeline; default: the in-box model")
    parser.add_argument("--pictures", type=int, default=7, help="of each kind")
    parser.add_argument("--output", type=Path, default=None, help="JSON file for the raw figures")
    args = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    console = Console()
    console.print("mode Off and plain xfuser, picture by picture ...")
    off = _spec(args.model, pb.COMPRESSION_MODE_OFF, 0)
    plain_seconds, off_seconds = run_ranks(4, time_off_and_plain, off, args.pictures, timeout_seconds=600)[0]
    shares = []
    for millibits in RATES:
        console.print(f"codec at {millibits} millibits ...")
        spec = _spec(args.model, pb.COMPRESSION_MODE_FIXED, millibits)
        shares.append(run_ranks(4, time_codec, spec, millibits, timeout_seconds=600)[0])
    console.print(_table(plain_seconds, off_seconds, shares))
    if args.output is not None:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        result: dict[str, Any] = {"about": about(), "plain_seconds": plain_seconds, "off_seconds": off_seconds}
        result["codec"] = [asdict(share) for share in shares]
        args.output.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def time_off_and_plain(launch: Launch, spec: pb.RunSpec, pictures: int) -> tuple[list[float], list[float]]:
    """Seconds of each picture, plain and off, taken in turns by the same ranks."""
    torch.set_num_threads(1)
    session = Session.open(spec, NoHooks(), launch)
    prompt = spec.generation.prompts[0]
    guidance = spec.generation.guidance_scale_milli / 1000
    family = session.model.family

    def plain() -> None:
        text = session.model.encode(prompt.prompt, prompt.negative_prompt, guidance)
        session.pipeline(**text, **family.wrapper_arguments(guidance), **call_arguments(spec.generation, prompt))

    def off() -> None:
        session.generate_pixels([prompt], first_job_step=0)

    seconds: dict[Any, list[float]] = {plain: [], off: []}
    for turn in range(pictures + 1):
        for make in (plain, off) if turn % 2 else (off, plain):
            torch.distributed.barrier()
            begun = time.perf_counter()
            make()
            torch.distributed.barrier()
            if turn:  # the first of each warms up
                seconds[make].append(time.perf_counter() - begun)
    session.close()
    return seconds[plain], seconds[off]


def time_codec(launch: Launch, spec: pb.RunSpec, millibits: int) -> CodecShare | None:
    """Codec and computing seconds of the second picture at one fixed rate."""
    torch.set_num_threads(1)
    hooks = RecordingHooks()
    session = Session.open(spec, hooks, launch)
    for prompt in spec.generation.prompts[:2]:
        session.generate_pixels([prompt], first_job_step=0)
    session.close()
    if launch.rank:
        return None
    coded = [facts for facts in hooks.steps[spec.generation.steps :] if not facts.key_frame]
    codec = sum(w.encode_seconds + w.decode_seconds for facts in coded for w in facts.windows)
    return CodecShare(millibits, codec, sum(facts.compute_seconds for facts in coded))


def _spec(model: str | None, mode: pb.CompressionMode.ValueType, millibits: int) -> pb.RunSpec:
    path = model or in_box_model()
    prompts = [pb.Prompt(name=name, prompt=name, seed=1) for name in ("rocket", "pizza")]
    return pb.RunSpec(
        job_name="overhead",
        attempt=1,
        model=pb.Model(path=path, pipeline="StableDiffusion3Pipeline", dtype=pb.DTYPE_FLOAT32),
        parallelism=pb.Parallelism(ulysses=2, ring=2, pipefusion=1, cfg=1, data=1),
        compression=pb.Compression(
            mode=mode, min_millibits=millibits, max_millibits=millibits, warmup_steps=1, predictor_order=2
        ),
        generation=pb.Generation(prompts=prompts, steps=28, guidance_scale_milli=2500, height=64, width=64),
    )


def _table(plain: list[float], off: list[float], shares: list[CodecShare]) -> Table:
    table = Table("what", "ratio", "least", "most", title="Overhead")
    ratios = sorted(mine / theirs for mine, theirs in zip(off, plain, strict=True))
    table.add_row("mode Off / plain xfuser", f"{median(ratios):.4f}", f"{ratios[0]:.4f}", f"{ratios[-1]:.4f}")
    for share in shares:
        table.add_row(f"codec / computing at {share.millibits / 1000:g} bits", f"{share.share:.3f}", "", "")
    return table
