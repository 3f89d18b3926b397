"""The collectives that carry parcels: timed, paced, and counted at the process group's door.

Over gloo they are sends and receives between every two ranks, receives posted first. A gloo pair asks for data on the
connection that it sends its own over: its collectives send first, so the rank that comes last asks behind its own data,
and the two directions of a link run one after the other. Asked for first, both run at once.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.distributed as dist

from thinwire.runtime.exchange.courier import Arrival
from thinwire.runtime.exchange.meter import Operation, Sample, StepMeter
from thinwire.runtime.exchange.moment import Moment
from thinwire.runtime.exchange.pacing import Pacer
from thinwire.runtime.parallel import LinkClass


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The ranks of one collective and the group that joins them."""

    group: dist.ProcessGroup
    ranks: tuple[int, ...]
    index: int
    """Of this rank in `ranks`."""
    link_class: LinkClass

    @property
    def size(self) -> int:
        """Number of ranks."""
        return len(self.ranks)

    @property
    def others(self) -> list[int]:
        """The indices of the other ranks, in order."""
        return [index for index in range(self.size) if index != self.index]


@dataclass(slots=True)
class Wire:
    """What this rank sends goes through here, as bytes."""

    device: torch.device
    pacer: Pacer
    moment: Moment
    meter: StepMeter
    clock: Callable[[], float] = field(init=False)

    def __post_init__(self) -> None:
        self.clock = _cuda_clock if self.device.type == "cuda" else time.perf_counter

    def all_gather(
        self, parcel: torch.Tensor, neighbours: Neighbours, values: int, operation: Operation = Operation.RING
    ) -> torch.Tensor:
        """Send a parcel ([n] uint8) of so many values to every neighbour; return [size, n] uint8, own one included."""
        received = torch.empty((neighbours.size, parcel.numel()), dtype=torch.uint8, device=self.device)
        peers = neighbours.size - 1
        started = self.clock()
        self._gather(parcel, received, neighbours)
        self.note(operation, neighbours, started, parcel.nbytes * peers, values * peers)
        return received

    def gather_beside(self, parcel: torch.Tensor, neighbours: Neighbours) -> Arrival:
        """Do the same in a courier's thread; `note_arrival` writes it down."""
        received = torch.empty((neighbours.size, parcel.numel()), dtype=torch.uint8, device=self.device)
        sent_bytes = parcel.nbytes * (neighbours.size - 1)
        return self.timed(received, sent_bytes, lambda: self._gather(parcel, received, neighbours))

    def hop_beside(self, parcel: torch.Tensor, neighbours: Neighbours) -> Arrival:
        """Send a parcel ([n] uint8) to the next rank of a ring and return the previous one's, in a courier's thread."""
        received = torch.empty_like(parcel)
        before, after = ((neighbours.index + by) % neighbours.size for by in (-1, 1))

        def hop() -> None:
            _swap({after: parcel}, {before: received}, neighbours.group)

        return self.timed(received, parcel.nbytes, hop)

    def _gather(self, parcel: torch.Tensor, received: torch.Tensor, neighbours: Neighbours) -> None:
        if self._over_gloo:
            others = neighbours.others
            _swap(dict.fromkeys(others, parcel), {index: received[index] for index in others}, neighbours.group)
            received[neighbours.index].copy_(parcel)
        else:
            dist.all_gather_single(received.view(-1), parcel, group=neighbours.group)

    def all_to_all(self, parcels: torch.Tensor, parcel_bytes: int, neighbours: Neighbours, values: int) -> torch.Tensor:
        """Send to each peer its own parcel of `parcel_bytes`; both tensors are [(size - 1) x parcel_bytes] uint8, the
        parcels in the order of the ranks without this one. `values` is what they hold together.
        """
        received = torch.empty_like(parcels)
        started = self.clock()
        if self._over_gloo:
            outgoing, incoming = (
                dict(zip(neighbours.others, tensor.view(-1, parcel_bytes), strict=True))
                for tensor in (parcels, received)
            )
            _swap(outgoing, incoming, neighbours.group)
        else:
            splits = [0 if index == neighbours.index else parcel_bytes for index in range(neighbours.size)]
            dist.all_to_all_single(received, parcels, splits, splits, group=neighbours.group)
        self.note(Operation.ULYSSES, neighbours, started, parcels.nbytes, values)
        return received

    @property
    def _over_gloo(self) -> bool:
        return self.device.type == "cpu"

    def note(self, operation: Operation, neighbours: Neighbours, started: float, sent_bytes: int, values: int) -> None:
        """Pace a collective that is over and write it down: what this rank sent in it, and since when it ran."""
        if self.pacer.emulates:
            self.clock()
            self.pacer.pace(started, sent_bytes, self.moment.job_step)
        seconds = self.clock() - started
        self.meter.samples.append(Sample(operation, neighbours.link_class, sent_bytes, values, seconds, seconds))
        self.meter.counted_bytes += sent_bytes

    def timed(self, brought: torch.Tensor, sent_bytes: int, transfer: Callable[[], object]) -> Arrival:
        """Run a transfer in a courier's thread, paced: it fills `brought`, and one rank sends `sent_bytes` in it."""
        started = time.perf_counter()
        transfer()
        if self.pacer.emulates:
            self.pacer.pace(started, sent_bytes, self.moment.job_step)
        return Arrival(brought, time.perf_counter() - started)

    def note_arrival(
        self,
        operation: Operation,
        link_class: LinkClass,
        arrival: Arrival,
        waited_seconds: float,
        sent_bytes: int,
        values: int,
    ) -> None:
        """Write down a transfer that a courier carried, once the rank has asked for it."""
        self.meter.samples.append(Sample(operation, link_class, sent_bytes, values, arrival.seconds, waited_seconds))
        self.meter.counted_bytes += sent_bytes


def _swap(outgoing: Mapping[int, torch.Tensor], incoming: Mapping[int, torch.Tensor], group: dist.ProcessGroup) -> None:
    """Send every peer (by its index in the group) its tensor and fill those that come from it; receives are posted
    first.
    """
    works = [dist.irecv(tensor, group=group, group_src=index) for index, tensor in incoming.items()]
    works += [dist.isend(tensor, group=group, group_dst=index) for index, tensor in outgoing.items()]
    for work in works:
        assert work is not None  # every rank of the group takes part
        work.wait()


def _cuda_clock() -> float:
    """Wait for the device first: an exchange is strictly encode, send, decode, so nothing could overlap anyway."""
    torch.cuda.synchronize()
    return time.perf_counter()
