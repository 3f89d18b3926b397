"""Tensors, streams and hypothesis strategies that the tests of the codec share."""

from functools import cache

import torch
from hypothesis import strategies as st
from torch import Tensor

from thinwire.compression import (
    RAW,
    RUNGS,
    BaseFormat,
    Basis,
    Exchange,
    Kernel,
    Role,
    Rung,
    StreamDecoder,
    StreamEncoder,
    StreamId,
    choose_kernel,
)
from thinwire.compression.rungs.low_rank import LowRankRung
from thinwire.compression.rungs.memory import RungMemory

STREAM = StreamId(Exchange.RING, layer=3, role=Role.KEY, branch=1, source=2, destination=5)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CODED = tuple(rung for rung in RUNGS if rung is not RAW)
# Rungs whose encoder is fixed arithmetic, bit for bit; the others' factors are found by a library's linear algebra.
FIXED = tuple(rung for rung in RUNGS if not isinstance(rung, LowRankRung))

rungs = st.sampled_from(RUNGS)
fixed_rungs = st.sampled_from(FIXED)
dtypes = st.sampled_from(DTYPES)
orders = st.integers(0, 2)
base_formats = st.sampled_from(BaseFormat)
shapes = st.tuples(st.integers(0, 70), st.integers(0, 40)) | st.sampled_from([(1, 1), (144, 96), (64, 16), (3, 129)])
seeds = st.integers(0, 2**31)


@cache
def kernel_named(name: str) -> Kernel:
    """One kernel of each kind for all tests."""
    kernel = choose_kernel(name)
    assert kernel.name == name, "the native kernel needs a C compiler (apt install gcc)"
    return kernel


NOTHING = RungMemory.fresh(None, 0, torch.device("cpu"))


def through(rung: Rung, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Code a tensor by a rung alone, without prediction or frame."""
    return rung.decode(rung.encode(x, dtype, NOTHING), *x.shape, dtype, NOTHING)[0]


def drifting(rows: int, channels: int, dtype: torch.dtype, steps: int, seed: int = 0) -> list[Tensor]:
    """A denoising run in miniature: a slow rotation, unlike scales per row and channel, a little noise."""
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.randn(rows, channels, generator=generator) for _ in range(2))
    scale = torch.rand(rows, 1, generator=generator) * 4 * torch.rand(1, channels, generator=generator)
    tensors = []
    for step in range(steps):
        angle = torch.tensor(0.06 * step)
        noise = 0.01 * torch.randn(rows, channels, generator=generator)
        tensors.append((scale * (first * torch.cos(angle) + second * torch.sin(angle) + noise)).to(dtype))
    return tensors


def pair(
    rows: int,
    channels: int,
    dtype: torch.dtype = torch.float32,
    *,
    order: int = 2,
    base_format: BaseFormat = BaseFormat.FULL,
    encoder_kernel: str = "native",
    decoder_kernel: str = "native",
    basis: Basis | None = None,
) -> tuple[StreamEncoder, StreamDecoder]:
    """Both ends of STREAM."""
    shape = (STREAM, rows, channels, dtype)
    encoder = StreamEncoder(
        *shape, order=order, base_format=base_format, kernel=kernel_named(encoder_kernel), basis=basis
    )
    decoder = StreamDecoder(
        *shape, order=order, base_format=base_format, kernel=kernel_named(decoder_kernel), basis=basis
    )
    return encoder, decoder


def send(
    encoder: StreamEncoder, decoder: StreamDecoder, x: Tensor, rung: Rung, step: int = 0, *, key_frame: bool = False
) -> Tensor:
    """Carry one tensor across and return what arrives."""
    frame = encoder.encode(x, rung=rung, epoch=1, step=step, key_frame=key_frame).frame
    return decoder.decode(frame, rung=rung, epoch=1, step=step, key_frame=key_frame)


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Equal byte for byte: NaN equals itself, -0 differs from 0."""
    return torch.equal(left.contiguous().view(-1).view(torch.uint8), right.contiguous().view(-1).view(torch.uint8))
