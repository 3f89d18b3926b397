"""PipeFusion through the codec: what one stage hands to the next, patch by patch, as residuals to the last step.

Stages hand on hidden states and, with the first patch, those of the text; the last hands latents back to the first.
In the synchronous steps at the start a whole picture is handed on at once: it is coded patch by patch too, so that its
frames are the key frames of the patches that follow.

Nothing waits for a send, and receives run in the courier's thread while this rank computes. Ahead of every parcel goes
a small message with its size, its tensor's shape and the step it was packed in; the receiver times a parcel from that
message on, because before it the sender had not finished computing. Both ends know the rungs of that step.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.distributed as dist

from thinwire.compression import Exchange, Role, StreamId
from thinwire.runtime.exchange.courier import Arrival, Courier, Ticket
from thinwire.runtime.exchange.meter import Operation
from thinwire.runtime.exchange.parcels import Contents, Parcels
from thinwire.runtime.exchange.streams import Shape
from thinwire.runtime.parallel import LinkClass

_TEXT_LAYER = 0xFFFF
"""Stands for the text where streams of patches have the patch's number."""
_HEADER_NUMBERS = 9
_MOST_DIMENSIONS = 6


@dataclass(frozen=True, slots=True)
class Announcement:
    """What goes ahead of a parcel."""

    parcel_bytes: int
    step: int
    shape: tuple[int, ...]

    def to_tensor(self) -> torch.Tensor:
        """Return int64 [9]: size, step, number of dimensions, dimensions."""
        padding = (0,) * (_MOST_DIMENSIONS - len(self.shape))
        return torch.tensor([self.parcel_bytes, self.step, len(self.shape), *self.shape, *padding])

    @classmethod
    def from_tensor(cls, numbers: torch.Tensor) -> "Announcement":
        """Read what `to_tensor` laid out."""
        parcel_bytes, step, dimensions, *shape = numbers.tolist()
        return cls(parcel_bytes, step, tuple(shape[:dimensions]))


@dataclass(frozen=True, slots=True)
class Patches:
    """How xfuser cuts a picture: rows of latents, and tokens, of each patch of this rank."""

    heights: tuple[int, ...]
    tokens: tuple[int, ...]

    def cut(self, shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
        """Return along which dimension a whole picture of this shape is cut, and where."""
        dimension, parts = (2, self.heights) if len(shape) == 4 else (1, self.tokens)
        if len(shape) not in (3, 4) or sum(parts) != shape[dimension]:
            raise RuntimeError(f"expected a picture of patches {parts} long, got {shape}: this model has no PipeFusion")
        return dimension, parts


@dataclass(slots=True)
class PipelineExchange:
    """Stands in front of the methods of xfuser's `PipelineGroupCoordinator` that pipelines call."""

    coordinator: Any
    parcels: Parcels
    courier: Courier
    link_class: LinkClass
    patches: Callable[[], Patches]
    enter_step: Callable[[int], None]
    """Called with the step of a parcel before it is read: this rank may have to end its last one first."""
    dtype: torch.dtype
    receiving: deque[tuple[str, int, Ticket, list[Announcement]]] = field(default_factory=deque)
    sending: deque[tuple[int, Any, torch.Tensor]] = field(default_factory=deque)
    """With the job's step in which it began: gloo loses a message that nobody holds."""

    METHODS: ClassVar[tuple[str, ...]] = (
        "pipeline_send",
        "pipeline_isend",
        "pipeline_recv",
        "add_pipeline_recv_task",
        "recv_next",
        "get_pipeline_recv_data",
    )

    def pipeline_send(self, tensor: torch.Tensor, name: str = "latent", segment_idx: int = -1) -> None:
        """Hand a tensor to the next stage; returns before it is there."""
        moment, parcels = self.parcels.moment, self.parcels
        rows, streams, contents = self._packing(tensor, name, segment_idx)
        parcel = torch.empty(parcels.layout(contents).parcel_bytes, dtype=torch.uint8, device=tensor.device)
        parcels.pack(parcel, streams, rows, contents, Operation.PIPEFUSION)
        announcement = Announcement(parcel.numel(), moment.step, tuple(tensor.shape)).to_tensor()
        parcels.wire.clock()
        coordinator, step = self.coordinator, moment.job_step
        for message, group in ((announcement, coordinator.cpu_group), (parcel, self._outgoing_group())):
            work = dist.isend(message, coordinator.next_rank, group=group)
            self.sending.append((step, work, message))
        self.forget_sends(before_job_step=step - 1)

    def pipeline_isend(self, tensor: torch.Tensor, name: str = "latent", segment_idx: int = -1) -> None:
        """Hand a tensor to the next stage."""
        self.pipeline_send(tensor, name, segment_idx)

    def pipeline_recv(self, idx: int = -1, name: str = "latent") -> torch.Tensor:
        """Return a tensor of the previous stage; waits for it."""
        self.add_pipeline_recv_task(idx, name)
        return self.get_pipeline_recv_data(idx, name)

    def add_pipeline_recv_task(self, idx: int = -1, name: str = "latent") -> None:
        """Expect a tensor of the previous stage, and take it in as soon as it comes."""
        announced: list[Announcement] = []
        ticket = self.courier.post(lambda: self._receive(announced))
        self.receiving.append((name, idx, ticket, announced))

    def recv_next(self) -> None:
        """Do nothing: what is expected is already being received."""

    def get_pipeline_recv_data(self, idx: int = -1, name: str = "latent") -> torch.Tensor:
        """Return what came of the oldest expectation, which must be this one."""
        expected_name, expected_idx, ticket, announced = self.receiving.popleft()
        if (expected_name, expected_idx) != (name, idx):
            raise RuntimeError(f"expected {expected_name} {expected_idx} of the last stage, was asked for {name} {idx}")
        arrival, waited_seconds = ticket.wait()
        (announcement,) = announced
        self.enter_step(announcement.step)
        return self._unpacked(arrival, announcement, waited_seconds, name, idx)

    def forget_sends(self, before_job_step: int | None = None) -> None:
        """Wait for sends of earlier steps (all of them where none is named), whose receivers have long gone on."""
        while self.sending and (before_job_step is None or self.sending[0][0] < before_job_step):
            _, work, _ = self.sending.popleft()
            work.wait()

    def _unpacked(
        self, arrival: Arrival, announcement: Announcement, waited_seconds: float, name: str, idx: int
    ) -> torch.Tensor:
        parcels, shape = self.parcels, announcement.shape
        shapes, layers, cut = self._shapes(shape, name, idx)
        source = self.coordinator.prev_rank
        role = _role(from_last_stage=self.coordinator.rank_in_group == 0)
        contents = self._contents(shapes, role, self.link_class, announcement.step)
        expected_bytes = parcels.layout(contents).parcel_bytes
        if expected_bytes != announcement.parcel_bytes:
            raise RuntimeError(
                f"expected {expected_bytes} bytes of {name} {idx} from rank {source} in step {announcement.step}, "
                f"got {announcement.parcel_bytes}: the ranks disagree about the rate; report this"
            )
        values = sum(rows * channels for rows, channels in shapes)
        parcels.wire.note_arrival(
            Operation.PIPEFUSION, self.link_class, arrival, waited_seconds, expected_bytes, values
        )
        parcels.meter.uncompressed_bytes += values * self.dtype.itemsize
        streams = self._streams(layers, role, source, self.coordinator.rank)
        read = parcels.unpack(arrival.tensor, streams, contents, Operation.PIPEFUSION)
        if cut is None:
            return read[0].view(shape)
        dimension, parts = cut
        sizes = [(*shape[:dimension], part, *shape[dimension + 1 :]) for part in parts]
        return torch.cat([rows.view(size) for rows, size in zip(read, sizes, strict=True)], dim=dimension)

    def _packing(
        self, tensor: torch.Tensor, name: str, idx: int
    ) -> tuple[list[torch.Tensor], list[StreamId], Contents]:
        shapes, layers, cut = self._shapes(tuple(tensor.shape), name, idx)
        parts = [tensor] if cut is None else torch.split(tensor, list(cut[1]), dim=cut[0])
        rows = [part.reshape(shape).contiguous() for part, shape in zip(parts, shapes, strict=True)]
        role = _role(from_last_stage=self.coordinator.rank_in_group == self.coordinator.world_size - 1)
        contents = self._contents(shapes, role, self.link_class, self.parcels.moment.step)
        return rows, self._streams(layers, role, self.coordinator.rank, self.coordinator.next_rank), contents

    def _shapes(
        self, shape: tuple[int, ...], name: str, idx: int
    ) -> tuple[tuple[Shape, ...], tuple[int, ...], tuple[int, tuple[int, ...]] | None]:
        """Return rows and channels of every tensor in a parcel, their streams' layers, and how the whole was cut."""
        if name.startswith("encoder_hidden_state"):
            return (_rows_shape(shape),), (_TEXT_LAYER,), None
        if idx >= 0:
            return (_rows_shape(shape),), (idx,), None
        dimension, parts = cut = self.patches().cut(shape)
        shapes = tuple(_rows_shape((*shape[:dimension], part, *shape[dimension + 1 :])) for part in parts)
        return shapes, tuple(range(len(parts))), cut

    def _contents(self, shapes: tuple[Shape, ...], role: Role, link_class: LinkClass, step: int) -> Contents:
        stamp = self.parcels.moment.stamp_of(step)
        return self.parcels.contents(Exchange.PIPEFUSION, link_class, (role,) * len(shapes), shapes, self.dtype, stamp)

    def _streams(self, layers: tuple[int, ...], role: Role, source: int, destination: int) -> list[StreamId]:
        return [StreamId(Exchange.PIPEFUSION, layer, role, 0, source, destination) for layer in layers]

    def _receive(self, announced: list[Announcement]) -> Arrival:
        """Run in the courier's thread."""
        coordinator, wire = self.coordinator, self.parcels.wire
        numbers = torch.empty(_HEADER_NUMBERS, dtype=torch.int64)
        dist.recv(numbers, coordinator.prev_rank, group=coordinator.cpu_group)
        announcement = Announcement.from_tensor(numbers)
        announced.append(announcement)
        parcel = torch.empty(announcement.parcel_bytes, dtype=torch.uint8, device=wire.device)
        group = self._incoming_group()
        return wire.timed(
            parcel, announcement.parcel_bytes, lambda: dist.recv(parcel, coordinator.prev_rank, group=group)
        )

    def _outgoing_group(self) -> dist.ProcessGroup:
        coordinator = self.coordinator
        two = coordinator.world_size == 2
        group: dist.ProcessGroup = (
            coordinator.device_groups[coordinator.rank_in_group % 2] if two else coordinator.device_group
        )
        return group

    def _incoming_group(self) -> dist.ProcessGroup:
        coordinator = self.coordinator
        two = coordinator.world_size == 2
        group: dist.ProcessGroup = (
            coordinator.device_groups[(coordinator.rank_in_group + 1) % 2] if two else coordinator.device_group
        )
        return group


def _role(*, from_last_stage: bool) -> Role:
    """The last stage hands on what the whole transformer has put out, the others what is between their layers."""
    return Role.OUTPUT if from_last_stage else Role.HIDDEN


def _rows_shape(shape: tuple[int, ...]) -> Shape:
    """Rows of tokens, or of a picture's channels."""
    if len(shape) == 4:
        batch, channels, height, width = shape
        return batch * channels, height * width
    *rows, channels = shape
    total = 1
    for size in rows:
        total *= size
    return total, channels
