"""Frames of one exchange to one peer, packed into one tensor of bytes whose size follows from shapes and rung alone.

Without codec (no rungs) a parcel is the values themselves. A frame that is refused on arrival is replaced by the
stream's prediction and counted; the boundary asks for a key frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog
import torch

from thinwire.compression import Exchange, FrameError, Role, Rung, StreamId, frame_bytes
from thinwire.runtime.exchange.floors import ATTENTION, coded_with
from thinwire.runtime.exchange.meter import Operation, StepMeter
from thinwire.runtime.exchange.moment import Moment, Stamp
from thinwire.runtime.exchange.rates import Allocations
from thinwire.runtime.exchange.streams import Shape, Streams
from thinwire.runtime.exchange.wire import Wire
from thinwire.runtime.parallel import LinkClass

_ALIGNMENT_BYTES = 8
Rungs = tuple[Rung, ...] | None
"""One for each tensor of a parcel; None for an exchange without codec."""
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a parcel, as both of its ends know without telling each other.

    shapes: rows and channels of each tensor. stamp: of the step that the parcel was packed in.
    """

    shapes: tuple[Shape, ...]
    dtype: torch.dtype
    rungs: Rungs
    stamp: Stamp


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each tensor's bytes lie in a parcel, and how long the parcel is."""

    slices: tuple[slice, ...]
    parcel_bytes: int


@dataclass(slots=True)
class Parcels:
    """Packs and unpacks; one for all exchanges of a rank."""

    streams: Streams
    moment: Moment
    meter: StepMeter
    wire: Wire
    allocations: Allocations = field(default_factory=dict)
    """What a rung stands for in each (layer, role), where that differs."""
    layouts: dict[tuple[tuple[Shape, ...], torch.dtype, Rungs], Layout] = field(default_factory=dict)

    def contents(
        self,
        exchange: Exchange,
        link_class: LinkClass,
        roles: Sequence[Role],
        shapes: tuple[Shape, ...],
        dtype: torch.dtype,
        stamp: Stamp | None = None,
    ) -> Contents:
        """Return what a parcel of one tensor per role holds over these links; stamp: of this step unless given."""
        stamp = stamp or self.moment.stamp
        return Contents(shapes, dtype, self._rungs(exchange, stamp, link_class, roles), stamp)

    def _rungs(self, exchange: Exchange, stamp: Stamp, link_class: LinkClass, roles: Sequence[Role]) -> Rungs:
        plan = self.streams.plan
        if exchange in ATTENTION and (self.moment.layer in plan.raw_layers or stamp.step < plan.whole_attention_steps):
            return None
        rung = stamp.rungs[link_class]
        if rung is None:
            return None
        if stamp.key_frame:
            return tuple(coded_with(exchange, role, plan.key_rung(rung)) for role in roles)
        allocated = self.allocations.get((link_class, rung.name), {})
        places = ((self.moment.layer, role) for role in roles)
        return tuple(coded_with(exchange, place[1], allocated.get(place, rung)) for place in places)

    def layout(self, contents: Contents) -> Layout:
        """Return the layout of a parcel, the same on both ends."""
        key = (contents.shapes, contents.dtype, contents.rungs)
        layout = self.layouts.get(key)
        if layout is None:
            layout = self.layouts[key] = _lay_out(*key)
        return layout

    def pack(
        self,
        parcel: torch.Tensor,
        streams: Sequence[StreamId],
        tensors_RC: Sequence[torch.Tensor],
        contents: Contents,
        operation: Operation,
    ) -> None:
        """Write contiguous tensors (rows, channels) into `parcel` ([n] uint8), in order."""
        started = self.wire.clock()
        slices, stamp, dtype = self.layout(contents).slices, contents.stamp, contents.dtype
        if contents.rungs is None:
            for shape, place, rows_RC in zip(contents.shapes, slices, tensors_RC, strict=True):
                parcel[place].view(dtype).view(shape).copy_(rows_RC)
            return
        for stream, shape, place, rows_RC, rung in zip(
            streams, contents.shapes, slices, tensors_RC, contents.rungs, strict=True
        ):
            encoder = self.streams.encoder(stream, shape, dtype)
            encoded = encoder.encode(
                rows_RC,
                rung=rung,
                epoch=stamp.epoch,
                step=stamp.job_step,
                key_frame=stamp.key_frame,
                out=parcel[place],
            )
            self.meter.max_relative_error = max(self.meter.max_relative_error, encoded.relative_error)
            if stamp.checks:
                self.streams.note_sent(stream, encoder)
        self.meter.encode_seconds[operation] += self.wire.clock() - started

    def unpack(
        self, parcel: torch.Tensor, streams: Sequence[StreamId], contents: Contents, operation: Operation
    ) -> list[torch.Tensor]:
        """Read the tensors of these streams out of `parcel` ([n] uint8), in order."""
        slices, dtype = self.layout(contents).slices, contents.dtype
        if contents.rungs is None:
            return [parcel[place].view(dtype).view(shape) for shape, place in zip(contents.shapes, slices, strict=True)]
        started = self.wire.clock()
        read = [
            self._decode(stream, shape, dtype, rung, contents.stamp, parcel[place])
            for stream, shape, place, rung in zip(streams, contents.shapes, slices, contents.rungs, strict=True)
        ]
        self.meter.decode_seconds[operation] += self.wire.clock() - started
        return read

    def _decode(
        self, stream: StreamId, shape: Shape, dtype: torch.dtype, rung: Rung, stamp: Stamp, frame: torch.Tensor
    ) -> torch.Tensor:
        decoder = self.streams.decoder(stream, shape, dtype)
        if stamp.key_frame:
            self.streams.lost.discard((stream, shape))
        elif (stream, shape) in self.streams.lost:
            return decoder.prediction()
        try:
            read = decoder.decode(frame, rung=rung, epoch=stamp.epoch, step=stamp.job_step, key_frame=stamp.key_frame)
        except FrameError as error:
            self.meter.frames_refused += 1
            self.streams.lost.add((stream, shape))
            log.warning("exchange.frame_refused", stream=str(stream), job_step=stamp.job_step, reason=str(error))
            read = decoder.prediction()
        if stamp.checks:
            self.streams.note_heard(stream, decoder)
        return read


def _lay_out(shapes: tuple[Shape, ...], dtype: torch.dtype, rungs: Rungs) -> Layout:
    slices, begin = [], 0
    for number, (rows, channels) in enumerate(shapes):
        whole = rows * channels * dtype.itemsize
        size = whole if rungs is None else frame_bytes(rungs[number], rows, channels, dtype)
        slices.append(slice(begin, begin + size))
        begin += -(-size // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
    return Layout(tuple(slices), begin)
