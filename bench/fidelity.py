"""What every rung and predictor order does to the picture, against the uncoded sample of the same seed.

Every key and value of every image token is coded (bench/closed_loop.py). Peak signal is that of pictures in [0, 1],
taken before they are rounded to 8 bits. FLIP (Andersson et al., "FLIP: A Difference Evaluator for Alternating Images",
2020) is what a person sees at 67 pixels per degree: 0 for nothing, 1 for everything. Medians and worst deciles over
pictures, never a pooled mean: one picture in eight may take another turn on a small early error.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import flip_evaluator
import numpy as np
import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table
from skimage.metrics import structural_similarity

from bench.about import about
from bench.closed_loop import CodedAttention, MakeCodec, ThinwireCodec, Traffic
from bench.compactfusion import CODERS, CompactFusionCodec
from bench.in_box import in_box_model
from bench.prompts import MEASURED
from thinwire.compression import (
    CALIBRATION_FILE,
    RAW,
    RUNGS,
    Calibration,
    Role,
    TransformRung,
    allocate,
    choose_kernel,
    rung_named,
)
from thinwire.runtime.exchange.rates import SHARES
from thinwire.runtime.fingerprint import model_fingerprint

ALLOCATED = "allocated-"


@dataclass(frozen=True, slots=True)
class Setting:
    """What is held fixed in a run of the benchmark."""

    model: str
    steps: int
    guidance: float
    pixels: int
    shards: int
    warmup_steps: int
    prompts: int
    first_seed: int
    key_rung: str


@dataclass(frozen=True, slots=True)
class Picture:
    """One coded picture against its uncoded twin."""

    codec: str
    order: int
    prompt: str
    seed: int
    psnr_db: float
    ssim: float
    flip: float
    bits_per_value: float
    coded_bits_per_value: float
    seconds: float


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench fidelity", description=__doc__)
    parser.add_argument("--model", default=None, help="folder of a StableDiffusion3Pipeline; default: the in-box model")
    parser.add_argument("--codecs", default="int4,bits3,bits2,ternary,bits1", help=f"of {', '.join(codec_names())}")
    parser.add_argument("--orders", default="2", help="predictor orders, such as 0,1,2")
    parser.add_argument("--prompts", type=int, default=len(MEASURED))
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--guidance", type=float, default=2.5)
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--warmup-steps", type=int, default=1)
    parser.add_argument("--key-rung", default="raw", help="rung of key frames")
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--output",
        type=Path,
        default=None,
        help="JSON file for the raw figures; one that was cut short is gone on with",
    )
    args = parser.parse_args(arguments)
    setting = Setting(
        model=args.model or in_box_model(),
        steps=args.steps,
        guidance=args.guidance,
        pixels=args.pixels,
        shards=args.shards,
        warmup_steps=args.warmup_steps,
        prompts=args.prompts,
        first_seed=args.first_seed,
        key_rung=args.key_rung,
    )
    orders = [int(order) for order in args.orders.split(",")]
    kinds = [
        (codec, order)
        for codec in args.codecs.split(",")
        for order in (orders if codec not in CODERS else [0])  # CompactFusion's predictor is its own
    ]
    known = about()
    pictures: list[Picture] = []
    if args.output is not None and args.output.exists():
        known, pictures = _resumed(args.output, known, setting, kinds)
    done = {picture.seed - setting.first_seed for picture in pictures}
    for more in _measured(setting, kinds, args.jobs, [n for n in range(setting.prompts) if n not in done]):
        pictures += more
        if args.output is not None:
            prompts = len({picture.prompt for picture in pictures})
            described = asdict(setting) | {"model": args.model or "emoji", "prompts": prompts}
            _write(args.output, {"about": known, "setting": described, "pictures": [asdict(p) for p in pictures]})
    Console().print(_table(pictures, kinds))
    return 0


def _resumed(
    path: Path, known: dict[str, str], setting: Setting, kinds: list[tuple[str, int]]
) -> tuple[dict[str, str], list[Picture]]:
    """What a run of the same setting has measured before it was cut short; raises SystemExit for another setting's."""
    told = json.loads(path.read_text())
    now = asdict(setting) | {"model": told["setting"]["model"], "prompts": told["setting"]["prompts"]}
    pictures = [Picture(**picture) for picture in told["pictures"]]
    if told["setting"] != now or {(picture.codec, picture.order) for picture in pictures} != set(kinds):
        raise SystemExit(f"{path}: expected a result of this setting and these codecs, to go on with; remove it first")
    commit = known["commit"]
    if told["about"]["commit"] != commit:
        commit = f"{commit}, {told['setting']['prompts']} prompts at {told['about']['commit']}"
    return known | {"commit": commit}, pictures


def _write(path: Path, result: dict[str, object]) -> None:
    """After every prompt, so that a run that was cut short has measured what it has measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    partial.replace(path)


def codec_names() -> list[str]:
    return [rung.name for rung in RUNGS] + list(CODERS) + ["transform-MILLIBITS", f"{ALLOCATED}MILLIBITS"]


def _measured(setting: Setting, kinds: list[tuple[str, int]], jobs: int, numbers: list[int]) -> Iterator[list[Picture]]:
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(jobs, mp_context=context) as pool,
        Progress(*Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn()) as progress,
    ):
        task = progress.add_task("pictures", total=len(numbers) * len(kinds))
        work = [pool.submit(measure_prompt, setting, kinds, number) for number in numbers]
        for done in as_completed(work):
            pictures = done.result()
            progress.advance(task, len(pictures))
            yield pictures


def measure_prompt(setting: Setting, kinds: list[tuple[str, int]], number: int) -> list[Picture]:
    """One prompt uncoded, then once for every codec and order."""
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    pipeline = _pipeline(setting.model)
    prompt, seed = MEASURED[number % len(MEASURED)], setting.first_seed + number
    plain = _sample(pipeline, setting, prompt, seed, None)
    pictures = []
    for codec, order in kinds:
        begun = time.perf_counter()
        attention = CodedAttention(
            _maker(codec, order, setting),
            layers=len(pipeline.transformer.transformer_blocks),
            image_tokens=_image_tokens(pipeline, setting.pixels),
            shards=setting.shards,
            warmup_steps=setting.warmup_steps,
        )
        coded = _sample(pipeline, setting, prompt, seed, attention)
        pictures.append(_compared(codec, order, prompt, seed, plain, coded, attention.traffic, begun))
    return pictures


def _maker(codec: str, order: int, setting: Setting) -> MakeCodec:
    """`transform-500` spends the same rate everywhere, `allocated-500` the same mean by calibrated costs."""
    if codec in CODERS:
        return CompactFusionCodec.maker(codec)
    kernel, key_rung = choose_kernel(), rung_named(setting.key_rung)
    rung = rung_named(codec.replace(ALLOCATED, "transform-"))
    if not isinstance(rung, TransformRung):
        return ThinwireCodec.maker(kernel, rung, key_rung, order)
    folder = Path(setting.model)
    calibration = Calibration.load(folder / CALIBRATION_FILE, model_fingerprint(folder))
    demands = [
        calibration.demand(place, 1, SHARES)
        for place in sorted(calibration.bases)
        if place[1] in (Role.KEY, Role.VALUE)
    ]
    allocated = allocate(rung.millibits, demands, SHARES) if codec.startswith(ALLOCATED) else None
    widest = {place: bases[0] for place, bases in calibration.bases.items()}
    return ThinwireCodec.maker(kernel, rung, key_rung, order, bases=widest, allocated=allocated)


def _compared(
    codec: str, order: int, prompt: str, seed: int, plain: np.ndarray, coded: np.ndarray, traffic: Traffic, begun: float
) -> Picture:
    return Picture(
        codec=codec,
        order=order,
        prompt=prompt,
        seed=seed,
        psnr_db=_psnr_db(plain, coded),
        ssim=float(structural_similarity(plain, coded, data_range=1.0, channel_axis=-1)),
        flip=_flip(plain, coded),
        bits_per_value=traffic.bits_per_value,
        coded_bits_per_value=traffic.coded_bits_per_value,
        seconds=time.perf_counter() - begun,
    )


def _psnr_db(plain: np.ndarray, coded: np.ndarray) -> float:
    """Of pictures in [0, 1]; at most 200."""
    error = float(np.mean((plain - coded) ** 2))
    return min(-10 * math.log10(error), 200.0) if error else 200.0


def _flip(plain: np.ndarray, coded: np.ndarray) -> float:
    """The mean of FLIP's map of differences."""
    pictures = (picture.clip(0, 1).astype(np.float32) for picture in (plain, coded))
    return float(flip_evaluator.evaluate(*pictures, "LDR", applyMagma=False)[1])


def _pipeline(model: str) -> Any:
    from diffusers import StableDiffusion3Pipeline

    folder = Path(model)
    index = json.loads((folder / "model_index.json").read_text())
    nulls = {name: None for name, kind in index.items() if kind == [None, None]}
    pipeline = StableDiffusion3Pipeline.from_pretrained(folder, torch_dtype=torch.float32, **nulls)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _image_tokens(pipeline: Any, pixels: int) -> int:
    side: int = pixels // pipeline.vae_scale_factor // pipeline.transformer.config.patch_size
    return side * side


def _sample(pipeline: Any, setting: Setting, prompt: str, seed: int, attention: CodedAttention | None) -> np.ndarray:
    """The picture as [height, width, 3] float in [0, 1], not rounded."""
    length = pipeline.tokenizer.model_max_length
    positive, negative, pooled, negative_pooled = pipeline.encode_prompt(prompt, None, None, max_sequence_length=length)
    with attention or contextlib.nullcontext():
        images = pipeline(
            prompt_embeds=positive,
            negative_prompt_embeds=negative,
            pooled_prompt_embeds=pooled,
            negative_pooled_prompt_embeds=negative_pooled,
            num_inference_steps=setting.steps,
            guidance_scale=setting.guidance,
            height=setting.pixels,
            width=setting.pixels,
            generator=torch.Generator().manual_seed(seed),
            output_type="np",
        ).images
    return np.asarray(images[0], dtype=np.float64)


def _table(pictures: list[Picture], kinds: list[tuple[str, int]]) -> Table:
    table = Table("codec", "order", "bits", "bits, all", "PSNR dB", "worst tenth", "least", "SSIM", title="Fidelity")
    for codec, order in kinds:
        rows = [p for p in pictures if (p.codec, p.order) == (codec, order)]
        psnr = sorted(p.psnr_db for p in rows)
        table.add_row(
            codec,
            "-" if codec in CODERS or codec == RAW.name else str(order),
            f"{median(p.coded_bits_per_value for p in rows):.2f}",
            f"{median(p.bits_per_value for p in rows):.2f}",
            f"{median(psnr):.1f}",
            f"{psnr[len(psnr) // 10]:.1f}",
            f"{psnr[0]:.1f}",
            f"{median(p.ssim for p in rows):.4f}",
        )
    return table
