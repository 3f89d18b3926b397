"""The codec's ends on this rank: an encoder for every stream it sends, a decoder for every stream it hears.

They are made at first use, with the shape that comes, and forgotten at the start of every prompt.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from thinwire.compression import (
    INT4,
    INT8,
    RAW,
    BaseFormat,
    Exchange,
    Kernel,
    Rung,
    StreamDecoder,
    StreamEncoder,
    StreamId,
)
from thinwire.runtime.exchange.bases import Bases

Shape = tuple[int, int]
"""Rows and channels."""
_End = TypeVar("_End", StreamEncoder, StreamDecoder)


@dataclass(frozen=True, slots=True)
class CodecPlan:
    """How this run codes, agreed by all ranks before the first step."""

    kernel: Kernel
    order: int
    base_format: BaseFormat
    raw_layers: frozenset[int] = frozenset()
    """Layers without bases: the memory budget has no room for them."""
    coded_key_frames: bool = True
    """Whether key frames travel in int8 where the rate is int4's or less; otherwise they are raw."""
    bases: Bases | None = None
    """Of a calibrated model: what transform rungs need."""

    def key_rung(self, rung: Rung) -> Rung:
        """Return what carries a key frame on links that `rung` codes: fine enough that it is not the worst step."""
        return INT8 if self.coded_key_frames and rung.millibits <= INT4.millibits else RAW


@dataclass(slots=True)
class Streams:
    """Encoders and decoders by stream and shape ([rows, channels])."""

    plan: CodecPlan
    device: torch.device
    encoders: dict[tuple[StreamId, Shape], StreamEncoder] = field(default_factory=dict)
    decoders: dict[tuple[StreamId, Shape], StreamDecoder] = field(default_factory=dict)

    def encoder(self, stream: StreamId, shape: Shape, dtype: torch.dtype) -> StreamEncoder:
        """Return the sending end of a stream."""
        encoder = self.encoders.get((stream, shape))
        if encoder is None:
            encoder = self.encoders[stream, shape] = self._opened(StreamEncoder, stream, shape, dtype)
        return encoder

    def decoder(self, stream: StreamId, shape: Shape, dtype: torch.dtype) -> StreamDecoder:
        """Return the hearing end of a stream."""
        decoder = self.decoders.get((stream, shape))
        if decoder is None:
            decoder = self.decoders[stream, shape] = self._opened(StreamDecoder, stream, shape, dtype)
        return decoder

    def _opened(self, end: type[_End], stream: StreamId, shape: Shape, dtype: torch.dtype) -> _End:
        """Open one end of a stream; both ends are opened alike, or their bases would differ."""
        plan = self.plan
        return end(
            stream,
            *shape,
            dtype,
            kernel=plan.kernel,
            order=plan.order,
            base_format=plan.base_format,
            basis=None if plan.bases is None else plan.bases.of(stream),
            device=self.device,
        )

    def reset(self) -> None:
        """Forget every base and history: a new prompt has nothing to do with the last."""
        for end in self._ends():
            end.reset()

    def drop(self, exchanges: Collection[Exchange]) -> None:
        """Free the bases of exchanges that go on without codec."""
        self.encoders = {key: end for key, end in self.encoders.items() if key[0].exchange not in exchanges}
        self.decoders = {key: end for key, end in self.decoders.items() if key[0].exchange not in exchanges}

    def checksums(self, world_size: int, ring_ranks: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return one number for all bases sent to each rank and one for all heard from each, to be compared in pairs.

        A ring's frame goes to every other rank of the ring. Sums of at most 2**20 CRC-32s are exact in a float64.
        """
        sent, heard = [0] * world_size, [0] * world_size
        for (stream, _), encoder in self.encoders.items():
            checksum = encoder.checksum()
            if stream.exchange is Exchange.RING:
                for rank in ring_ranks:
                    sent[rank] += checksum if rank != stream.source else 0
            else:
                sent[stream.destination] += checksum
        for (stream, _), decoder in self.decoders.items():
            heard[stream.source] += decoder.checksum()
        return sent, heard

    @property
    def base_bytes(self) -> int:
        """What bases and histories take on this rank."""
        return sum(end.base_bytes for end in self._ends())

    def _ends(self) -> Iterator[StreamEncoder | StreamDecoder]:
        yield from self.encoders.values()
        yield from self.decoders.values()
