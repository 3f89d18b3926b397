"""The codec's ends on this rank: an encoder for every stream it sends, a decoder for every stream it hears.

They are made at first use, with the shape that comes, and forgotten at the start of every prompt.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
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
Audiences = Mapping[Exchange, tuple[int, ...]]
"""Exchanges whose frames go to a whole group, with that group's ranks."""
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
    whole_attention_steps: int = 0
    """First steps of a prompt in which attention is exchanged without codec: PipeFusion's, whose shapes are others."""

    shapes_vary: bool = False
    """Whether tensors of the next prompt have other shapes, so that its streams are other ones."""

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
    lost: set[tuple[StreamId, Shape]] = field(default_factory=set)
    """Streams that missed a frame: only a key frame can be read."""
    noted_sent: dict[StreamId, int] = field(default_factory=dict)
    noted_heard: dict[StreamId, int] = field(default_factory=dict)

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
        self.noted_sent.clear()
        self.noted_heard.clear()
        self.lost.clear()
        if self.plan.shapes_vary:
            self.encoders.clear()
            self.decoders.clear()
        for end in self._ends():
            end.reset()

    def drop(self, exchanges: Collection[Exchange]) -> None:
        """Free the bases of exchanges that go on without codec."""
        self.encoders = {key: end for key, end in self.encoders.items() if key[0].exchange not in exchanges}
        self.decoders = {key: end for key, end in self.decoders.items() if key[0].exchange not in exchanges}
        for noted in (self.noted_sent, self.noted_heard):
            for stream in [stream for stream in noted if stream.exchange in exchanges]:
                del noted[stream]

    def note_sent(self, stream: StreamId, encoder: StreamEncoder) -> None:
        """Keep the checksum that this base has now, for `noted_checksums`."""
        self.noted_sent[stream] = self.noted_sent.get(stream, 0) + encoder.checksum()

    def note_heard(self, stream: StreamId, decoder: StreamDecoder) -> None:
        """Keep the checksum that this base has now, for `noted_checksums`."""
        self.noted_heard[stream] = self.noted_heard.get(stream, 0) + decoder.checksum()

    def noted_checksums(self, world_size: int, audiences: Audiences) -> tuple[list[int], list[int]]:
        """Return the sums of what was noted by rank, to be compared in pairs, and forget it.

        Both ends note after the same frame, which one may read later than the other wrote it.
        """
        sums = _by_rank(self.noted_sent.items(), self.noted_heard.items(), world_size, audiences)
        self.noted_sent.clear()
        self.noted_heard.clear()
        return sums

    def checksums(self, world_size: int, audiences: Audiences) -> tuple[list[int], list[int]]:
        """Return one number for all bases sent to each rank and one for all heard from each, to be compared in pairs.

        Sums of at most 2**20 CRC-32s are exact in a float64.
        """
        sent = ((stream, encoder.checksum()) for (stream, _), encoder in self.encoders.items())
        heard = ((stream, decoder.checksum()) for (stream, _), decoder in self.decoders.items())
        return _by_rank(sent, heard, world_size, audiences)

    @property
    def base_bytes(self) -> int:
        """What bases and histories take on this rank."""
        return sum(end.base_bytes for end in self._ends())

    def _ends(self) -> Iterator[StreamEncoder | StreamDecoder]:
        yield from self.encoders.values()
        yield from self.decoders.values()


def _by_rank(
    sent: Iterable[tuple[StreamId, int]], heard: Iterable[tuple[StreamId, int]], world_size: int, audiences: Audiences
) -> tuple[list[int], list[int]]:
    """Add up checksums by the rank at the other end; a frame of an audience's exchange goes to every rank of it."""
    to, by = [0] * world_size, [0] * world_size
    for stream, checksum in sent:
        for rank in audiences.get(stream.exchange, (stream.destination,)):
            to[rank] += checksum if rank != stream.source else 0
    for stream, checksum in heard:
        by[stream.source] += checksum
    return to, by
