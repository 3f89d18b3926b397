"""What each rung costs on this machine: bits on the wire, seconds to encode and to decode."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import torch

from thinwire.compression.endpoints import StreamDecoder, StreamEncoder
from thinwire.compression.kernels.base import Kernel
from thinwire.compression.ladder import LADDER, RAW, true_millibits
from thinwire.compression.rungs.base import Rung
from thinwire.compression.streams import Exchange, Role, StreamId
from thinwire.compression.transform.basis import Basis


@dataclass(frozen=True, slots=True)
class RungCost:
    """millibits: per value, header and scales included. Seconds are the least seen, per value."""

    rung: Rung
    millibits: int
    encode_seconds_per_value: float
    decode_seconds_per_value: float


def _least_seconds(prepare: Callable[[], object], work: Callable[[], object], budget_seconds: float) -> float:
    """Repeat both for about `budget_seconds` (at least twice) and return the shortest time that `work` took."""
    least = float("inf")
    begin = perf_counter()
    repeats = 0
    while repeats < 2 or perf_counter() - begin < budget_seconds:
        prepare()
        start = perf_counter()
        work()
        least = min(least, perf_counter() - start)
        repeats += 1
    return least


def measure_ladder(
    kernel: Kernel,
    rows: int,
    channels: int,
    dtype: torch.dtype,
    *,
    ladder: tuple[Rung, ...] = LADDER,
    basis: Basis | None = None,
    budget_seconds: float = 0.2,
) -> tuple[RungCost, ...]:
    """Time every rung on tensors of one shape, in about `budget_seconds` (longer only if two calls take longer).

    basis: what transform rungs in `ladder` need.
    """
    values = max(rows * channels, 1)
    share_seconds = budget_seconds / (2 * len(ladder))
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(rows, channels, generator=generator).to(dtype) for _ in range(2))
    stream = StreamId(Exchange.RING, layer=0, role=Role.KEY, branch=0, source=0)
    costs = []
    for rung in ladder:
        encoder = StreamEncoder(stream, rows, channels, dtype, kernel=kernel, basis=basis)
        decoder = StreamDecoder(stream, rows, channels, dtype, kernel=kernel, basis=basis)
        key = encoder.encode(first, rung=RAW, epoch=0, step=0, key_frame=True).frame
        begin = partial(_begin, encoder, decoder, first, key)
        begin()
        frame = encoder.encode(second, rung=rung, epoch=0, step=1).frame
        encode = partial(encoder.encode, second, rung=rung, epoch=0, step=1)
        decode = partial(decoder.decode, frame, rung=rung, epoch=0, step=1)
        millibits = true_millibits(rung, rows, channels, dtype)
        encode_seconds, decode_seconds = (_least_seconds(begin, work, share_seconds) for work in (encode, decode))
        costs.append(RungCost(rung, millibits, encode_seconds / values, decode_seconds / values))
    return tuple(costs)


def _begin(encoder: StreamEncoder, decoder: StreamDecoder, first: torch.Tensor, key: torch.Tensor) -> None:
    """Bring both ends to their first key frame: one residual again and again would grow without end."""
    encoder.encode(first, rung=RAW, epoch=0, step=0, key_frame=True)
    decoder.decode(key, rung=RAW, epoch=0, step=0, key_frame=True)
