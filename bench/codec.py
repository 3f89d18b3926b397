"""Speed of the codec: bytes of tensor per second, per rung and kernel, beside a plain copy of the same tensor.

Transform rungs run with made-up bases in blocks of 64 channels and of 256, or the nearest below that divide the width:
their values do not change the work, the spread of bits does, so tensors have a steep spectrum. One core, order-2
predictor, full bases; the least of many repetitions, so that a busy machine disturbs little. The rate counts header
and scales.
"""

import argparse
import json
import resource
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.about import about
from thinwire.compression import (
    LADDER,
    RAW,
    Basis,
    Exchange,
    Kernel,
    Role,
    Rung,
    StreamDecoder,
    StreamEncoder,
    StreamId,
    TransformRung,
    choose_kernel,
    true_millibits,
)

WIDEST_BLOCKS = (64, 256)
TRANSFORMS = tuple(TransformRung(millibits) for millibits in (500, 1_000, 2_000))
STREAM = StreamId(Exchange.RING, layer=0, role=Role.KEY, branch=0, source=0)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Line:
    """One rung on one kernel at one shape. Seconds are per call, bytes those of the uncompressed tensor.

    block_channels: of the basis; 0 for a rung that needs none.
    """

    kernel: str
    rung: str
    block_channels: int
    rows: int
    channels: int
    dtype: str
    millibits: int
    tensor_bytes: int
    encode_seconds: float
    decode_seconds: float
    copy_seconds: float

    def bytes_per_second(self, seconds: float) -> float:
        return self.tensor_bytes / seconds


def least_seconds(work: Callable[[], object], budget_seconds: float) -> float:
    least, begin, repeats = float("inf"), perf_counter(), 0
    while repeats < 3 or perf_counter() - begin < budget_seconds:
        start = perf_counter()
        work()
        least = min(least, perf_counter() - start)
        repeats += 1
    return least


def least_seconds_of_a_series(begin: Callable[[], object], series: list[Callable[[], object]], budget: float) -> float:
    """Repeat a series that must run in order; the shortest time of any but its first."""
    least, begun, repeats = float("inf"), perf_counter(), 0
    while repeats < 3 or perf_counter() - begun < budget:
        begin()
        for index, work in enumerate(series):
            start = perf_counter()
            work()
            least = min(least, perf_counter() - start) if index else least
        repeats += 1
    return least


def block_sizes(channels: int) -> dict[int, None]:
    """Return the widest blocks within each of WIDEST_BLOCKS that the channels are whole ones of, in order."""
    return dict.fromkeys(max(size for size in range(1, widest + 1) if channels % size == 0) for widest in WIDEST_BLOCKS)


def made_up_basis(channels: int, block_channels: int) -> Basis:
    generator = torch.Generator().manual_seed(0)
    like = torch.randn(channels // block_channels, block_channels, block_channels, generator=generator)
    rotation = torch.linalg.qr(like).Q.contiguous()
    return Basis(rotation, rotation.mT.contiguous(), torch.zeros(channels, dtype=torch.int16))


def made_up_tensors(basis: Basis, rows: int, dtype: torch.dtype, count: int) -> list[torch.Tensor]:
    """Independent tensors whose components fall by eight octaves within a block."""
    steep = torch.exp2(torch.arange(basis.channels) % basis.size * (-8.0 / basis.size))
    generator = torch.Generator().manual_seed(0)
    noise = (torch.randn(rows, basis.channels, generator=generator) for _ in range(count))
    return [basis.residual(x_RC * steep).to(dtype) for x_RC in noise]


def measure(
    kernel: Kernel,
    rung: Rung,
    block_channels: int,
    rows: int,
    channels: int,
    dtype: torch.dtype,
    budget_seconds: float,
) -> Line:
    basis = made_up_basis(channels, block_channels or 1)
    tensors = made_up_tensors(basis, rows, dtype, 4)
    encoder = StreamEncoder(STREAM, rows, channels, dtype, kernel=kernel, basis=basis)
    decoder = StreamDecoder(STREAM, rows, channels, dtype, kernel=kernel, basis=basis)
    frames: list[Callable[[], object]] = []
    for step, x in enumerate(tensors):
        said: dict[str, Any] = {"rung": RAW if step == 0 else rung, "epoch": 0, "step": step, "key_frame": step == 0}
        frame = encoder.encode(x, **said).frame
        frames.append(partial(decoder.decode, frame.clone(), **said))
    encode = partial(encoder.encode, tensors[0], rung=rung, epoch=0, step=9, out=frame)
    encode()
    arrived = torch.empty_like(tensors[0])
    return Line(
        kernel.name,
        rung.name,
        block_channels,
        rows,
        channels,
        str(dtype).removeprefix("torch."),
        true_millibits(rung, rows, channels, dtype),
        tensors[0].nbytes,
        least_seconds(encode, budget_seconds),
        least_seconds_of_a_series(decoder.reset, frames, budget_seconds),
        least_seconds(partial(arrived.copy_, tensors[0]), budget_seconds / 4),
    )


def show(lines: list[Line], console: Console) -> None:
    for rows, channels, dtype in dict.fromkeys((line.rows, line.channels, line.dtype) for line in lines):
        table = Table(title=f"{rows} x {channels} {dtype}, one core")
        for column in (
            "kernel",
            "rung",
            "block",
            "bits/value",
            "encode ns/value",
            "decode ns/value",
            "encode GB/s",
            "decode GB/s",
        ):
            table.add_column(column, justify="left" if column in ("kernel", "rung") else "right")
        for column in ("encode : copy", "decode : copy", "encode, eager :", "decode, eager :"):
            table.add_column(column, justify="right")
        chosen = [line for line in lines if (line.rows, line.channels, line.dtype) == (rows, channels, dtype)]
        references = {(line.rung, line.block_channels): line for line in chosen if line.kernel == "eager"}
        for line in chosen:
            values = rows * channels
            eager = references.get((line.rung, line.block_channels))
            table.add_row(
                line.kernel,
                line.rung,
                str(line.block_channels or ""),
                f"{line.millibits / 1000:.3f}",
                f"{line.encode_seconds / values * 1e9:.2f}",
                f"{line.decode_seconds / values * 1e9:.2f}",
                f"{line.bytes_per_second(line.encode_seconds) / 1e9:.2f}",
                f"{line.bytes_per_second(line.decode_seconds) / 1e9:.2f}",
                f"{line.encode_seconds / line.copy_seconds:.1f}",
                f"{line.decode_seconds / line.copy_seconds:.1f}",
                f"{eager.encode_seconds / line.encode_seconds:.1f}x" if eager else "",
                f"{eager.decode_seconds / line.decode_seconds:.1f}x" if eager else "",
            )
        console.print(table)


def shape(text: str) -> tuple[int, int]:
    rows, _, channels = text.partition("x")
    return int(rows), int(channels)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench codec", description=__doc__)
    parser.add_argument(
        "--shape", type=shape, action="append", help="ROWSxCHANNELS, again for more (144x96, 128x192, 1024x3072)"
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--kernel", choices=("native", "eager"), action="append", help="again for more (both)")
    parser.add_argument("--seconds", type=float, default=0.1, help="for each figure (0.1)")
    parser.add_argument("--output", type=Path, help="write the raw figures here")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    kernels = [choose_kernel(name) for name in options.kernel or ("native", "eager")]
    cases = [
        (kernel, rung, block, *size)
        for size in options.shape or [(144, 96), (128, 192), (1024, 3072)]
        for kernel in kernels
        for rung in (*LADDER, *TRANSFORMS)
        for block in (block_sizes(size[1]) if rung in TRANSFORMS else (0,))
    ]
    console = Console()
    lines = []
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("codec", total=len(cases))
        for kernel, rung, block, rows, channels in cases:
            progress.update(task, description=f"{kernel.name} {rung.name} {rows}x{channels}")
            lines.append(measure(kernel, rung, block, rows, channels, DTYPES[options.dtype], options.seconds))
            progress.advance(task)
    show(lines, console)
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    console.print(f"peak memory of this process: {peak_bytes / 2**20:.0f} MiB")
    if options.output:
        figures = {"about": about(), "peak_bytes": peak_bytes, "lines": [asdict(line) for line in lines]}
        options.output.write_text(json.dumps(figures, indent=1) + "\n")
        print(f"raw figures: {options.output}", file=sys.stderr)
    return 0
