"""Frames of one exchange to one peer, packed into one tensor of bytes whose size follows from shapes and rung alone.

Without codec (no rungs) a parcel is the values themselves. A frame that is refused on arrival is replaced by the
stream's prediction and counted; the boundary asks for a key frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog
import torch

from thinwire.compression import FrameError, Role, Rung, StreamId, frame_bytes
from thinwire.runtime.exchange.meter import Operation, StepMeter
from thinwire.runtime.exchange.moment import Moment
from thinwire.runtime.exchange.rates import Allocations
from thinwire.runtime.exchange.streams import Shape, Streams
from thinwire.runtime.exchange.wire import Wire
from thinwire.runtime.parallel import LinkClass

_ALIGNMENT_BYTES = 8
Rungs = tuple[Rung, ...] | None
"""One for each tensor of a parcel; None for an exchange without codec."""
log = structlog.get_logger(__name__)


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

    def rungs(self, link_class: LinkClass, roles: Sequence[Role]) -> Rungs:
        """Return what codes each role of the current layer over these links; None for an exchange without codec."""
        if self.moment.layer in self.streams.plan.raw_layers:
            return None
        rung = self.moment.rungs[link_class]
        if rung is None:
            return None
        if self.moment.key_frame:
            return (self.streams.plan.key_rung(rung),) * len(roles)
        allocated = self.allocations.get((link_class, rung.name), {})
        return tuple(allocated.get((self.moment.layer, role), rung) for role in roles)

    def layout(self, shapes: tuple[Shape, ...], dtype: torch.dtype, rungs: Rungs) -> Layout:
        """Return the layout of a parcel of tensors of these shapes, the same on both ends."""
        layout = self.layouts.get((shapes, dtype, rungs))
        if layout is None:
            layout = self.layouts[shapes, dtype, rungs] = _lay_out(shapes, dtype, rungs)
        return layout

    def pack(
        self,
        parcel: torch.Tensor,
        streams: Sequence[StreamId],
        tensors_RC: Sequence[torch.Tensor],
        shapes: tuple[Shape, ...],
        rungs: Rungs,
        operation: Operation,
    ) -> None:
        """Write contiguous tensors of these shapes (rows, channels) into `parcel` ([n] uint8), in order."""
        started = self.wire.clock()
        moment, dtype = self.moment, tensors_RC[0].dtype
        layout = self.layout(shapes, dtype, rungs)
        if rungs is None:
            for shape, place, rows_RC in zip(shapes, layout.slices, tensors_RC, strict=True):
                parcel[place].view(dtype).view(shape).copy_(rows_RC)
            return
        for stream, shape, place, rows_RC, rung in zip(streams, shapes, layout.slices, tensors_RC, rungs, strict=True):
            encoded = self.streams.encoder(stream, shape, dtype).encode(
                rows_RC,
                rung=rung,
                epoch=moment.epoch,
                step=moment.job_step,
                key_frame=moment.key_frame,
                out=parcel[place],
            )
            self.meter.max_relative_error = max(self.meter.max_relative_error, encoded.relative_error)
        self.meter.encode_seconds[operation] += self.wire.clock() - started

    def unpack(
        self,
        parcel: torch.Tensor,
        streams: Sequence[StreamId],
        shapes: tuple[Shape, ...],
        dtype: torch.dtype,
        rungs: Rungs,
        operation: Operation,
    ) -> list[torch.Tensor]:
        """Read the tensors of these streams and shapes out of `parcel` ([n] uint8), in order."""
        layout = self.layout(shapes, dtype, rungs)
        if rungs is None:
            return [parcel[place].view(dtype).view(shape) for shape, place in zip(shapes, layout.slices, strict=True)]
        started = self.wire.clock()
        read = [
            self._decode(stream, shape, dtype, rung, parcel[place])
            for stream, shape, place, rung in zip(streams, shapes, layout.slices, rungs, strict=True)
        ]
        self.meter.decode_seconds[operation] += self.wire.clock() - started
        return read

    def _decode(
        self, stream: StreamId, shape: Shape, dtype: torch.dtype, rung: Rung, frame: torch.Tensor
    ) -> torch.Tensor:
        decoder, moment = self.streams.decoder(stream, shape, dtype), self.moment
        try:
            return decoder.decode(
                frame,
                rung=rung,
                epoch=moment.epoch,
                step=moment.job_step,
                key_frame=moment.key_frame,
            )
        except FrameError as error:
            self.meter.frames_refused += 1
            log.warning("exchange.frame_refused", stream=str(stream), job_step=moment.job_step, reason=str(error))
            return decoder.prediction()


def _lay_out(shapes: tuple[Shape, ...], dtype: torch.dtype, rungs: Rungs) -> Layout:
    slices, begin = [], 0
    for number, (rows, channels) in enumerate(shapes):
        whole = rows * channels * dtype.itemsize
        size = whole if rungs is None else frame_bytes(rungs[number], rows, channels, dtype)
        slices.append(slice(begin, begin + size))
        begin += -(-size // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
    return Layout(tuple(slices), begin)
