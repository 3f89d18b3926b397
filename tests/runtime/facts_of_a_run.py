"""A made-up run that behaves like a real one: a link that falls and recovers, key frames, retunes, several attempts."""

import math
from collections.abc import Iterator
from pathlib import Path

from google.protobuf import json_format
from PIL import Image

from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import (
    COMPRESSION_MODE_ADAPTIVE,
    DTYPE_FLOAT32,
    Compression,
    EmulatedLinkPhase,
    Generation,
    Model,
    Parallelism,
    Prompt,
    RunSpec,
)
from thinwire.runtime.facts import Retune, RunFacts, RungFacts, StepFacts, TrafficFacts, WindowFacts

LINK = "intra-node"
VALUES_PER_STEP = 1_200_000
HIDDEN_SHARE = 0.375
PROMPTS = (
    ("grinning-face", "grinning face"),
    ("red-heart", "red heart"),
    ("rocket", "rocket"),
    ("pizza", "pizza"),
    ("flag-japan", "flag of japan"),
    ("cat", "cat face, “smiling” <b>&"),
    ("snow", "snowman ☃"),
    ("frog", "frog"),
)
VERSIONS = {"thinwire": "0.1.0", "torch": "2.13.0", "xfuser": "0.7.0", "diffusers": "0.42.1", "python": "3.11.9"}


def run_spec(
    output: Path, model: Path, *, prompts: int = 3, steps: int = 4, attempt: int = 1, telemetry: str = ""
) -> RunSpec:
    return RunSpec(
        job_name="emoji",
        namespace="default",
        attempt=attempt,
        model=Model(path=str(model), pipeline="StableDiffusion3Pipeline", dtype=DTYPE_FLOAT32),
        parallelism=Parallelism(ulysses=2, ring=2, pipefusion=1, cfg=1, data=1),
        compression=Compression(
            mode=COMPRESSION_MODE_ADAPTIVE,
            min_millibits=1000,
            max_millibits=16000,
            target_stall_percent=10,
            max_relative_error_milli=250,
            warmup_steps=2,
            predictor_order=2,
        ),
        generation=Generation(
            prompts=[Prompt(name=name, prompt=text, seed=seed) for seed, (name, text) in enumerate(PROMPTS[:prompts])],
            steps=steps,
            guidance_scale_milli=4500,
            height=64,
            width=64,
        ),
        output_dir=str(output),
        telemetry_address=telemetry,
        emulated_link=[EmulatedLinkPhase(bits_per_second=80_000_000, from_step=0)],
    )


def spec_json(spec: RunSpec) -> str:
    return json_format.MessageToJson(spec)


def run_facts(world_size: int = 4) -> RunFacts:
    return RunFacts(
        world_size=world_size,
        ladder=tuple(
            RungFacts(name, millibits, 2e-9, 1e-9)
            for name, millibits in (("off", 32000), ("int8", 8100), ("int4", 4130), ("bits2", 2130), ("bits1", 1130))
        ),
        traffic=(TrafficFacts(LINK, VALUES_PER_STEP, 24),),
        rates={LINK: 32000},
        kernel="eager",
        base_memory_bytes=19_200_000,
        versions=VERSIONS,
        link_is_emulated=True,
    )


def window(operation: str, millibits: int, bytes_per_second: float, count: int = 12) -> WindowFacts:
    size = VALUES_PER_STEP / count / 2 * millibits / 8000
    seconds = 4e-4 + size / bytes_per_second
    return WindowFacts(
        link_class=LINK,
        operation=operation,
        count=count,
        sum_bytes=count * size,
        sum_seconds=count * seconds,
        sum_bytes_squared=count * size * size,
        sum_bytes_seconds=count * size * seconds,
        sum_seconds_squared=count * seconds * seconds,
        min_seconds=seconds * 0.97,
        max_seconds=seconds * 1.2,
        encode_seconds=0.004 if millibits < 16000 else 0.0,
        decode_seconds=0.002 if millibits < 16000 else 0.0,
        values=VALUES_PER_STEP // 2,
        hidden_seconds=HIDDEN_SHARE * count * seconds,
    )


def steps_of(spec: RunSpec, *, first_prompt: int = 0, steps_of_last_prompt: int | None = None) -> Iterator[StepFacts]:
    """Yield every step of the prompts from `first_prompt` on; the last one may stop early."""
    generation = spec.generation
    total = len(generation.prompts) * generation.steps
    millibits, epoch, sent, uncompressed, half = 16000, 0, 0, 0, 0
    for index, prompt in enumerate(generation.prompts[first_prompt:], first_prompt):
        last = index == len(generation.prompts) - 1
        for step in range(steps_of_last_prompt if last and steps_of_last_prompt is not None else generation.steps):
            job_step = index * generation.steps + step
            slow = 0.3 <= job_step / total < 0.6
            bytes_per_second = (2.5e6 if slow else 25e6) * (1 + 0.08 * math.sin(job_step * 1.7))
            key_frame = step < 2
            paid = 32000 if key_frame else millibits
            windows = tuple(
                window(name, paid, bytes_per_second * share)
                for name, share in (("ring.all_gather", 1.0), ("ulysses.all_to_all", 0.8))
            )
            exchange_seconds = sum(entry.sum_seconds for entry in windows)
            sent += int(4 * VALUES_PER_STEP * paid / 8000)
            uncompressed += 16 * VALUES_PER_STEP
            half += 8 * VALUES_PER_STEP
            retunes: tuple[Retune, ...] = ()
            wanted = 2000 if slow else 8000
            if not key_frame and wanted != millibits:
                epoch += 1
                reason = (
                    f"{LINK}: link fell to {bytes_per_second / 1e6:.1f} MB/s; predicted stall 212 % -> 9 % of computing"
                    if wanted < millibits
                    else f"{LINK}: link rose to {bytes_per_second / 1e6:.1f} MB/s; {wanted / 1000:g} bits stall 6 %"
                )
                retunes = (Retune(job_step + 1, prompt.name, step + 1, epoch, LINK, millibits, wanted, reason),)
            yield StepFacts(
                job_step=job_step,
                prompt=prompt.name,
                step=step,
                step_seconds=0.31 + exchange_seconds,
                compute_seconds=0.31,
                max_relative_error=0.0 if key_frame else (0.2 if millibits < 4000 else 0.004) * (1 + 1 / (step + 1)),
                epoch=epoch - len(retunes),
                rates={LINK: millibits},
                key_frame=key_frame,
                windows=windows,
                bytes_sent=sent,
                bytes_uncompressed=uncompressed,
                bytes_uncompressed_fp16=half,
                bytes_counted=sent + 4096,
                frames_refused=1 if job_step > total // 2 else 0,
                key_frames_forced=1 if job_step > total // 2 else 0,
                base_mismatches=0,
                base_memory_bytes=19_200_000,
                retunes=retunes,
            )
            millibits = wanted if retunes else millibits


def picture(seed: int, size: int = 64) -> Image.Image:
    """A disc on white whose colour and place depend on the seed."""
    image = Image.new("RGB", (size, size), "white")
    for x in range(size):
        for y in range(size):
            if (x - size / 2) ** 2 + (y - size / 2 + seed) ** 2 < (size / 3) ** 2:
                image.putpixel((x, y), (255 - 25 * (seed % 8), 40 + 30 * (seed % 7), x * 3 % 256))
    return image
