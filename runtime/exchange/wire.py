"""The two collectives that carry parcels: timed, paced, and counted at the process group's door."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.distributed as dist

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

    def all_gather(self, parcel: torch.Tensor, neighbours: Neighbours, values: int) -> torch.Tensor:
        """Send a parcel ([n] uint8) of so many values to every neighbour; return [size, n] uint8, own one included."""
        received = torch.empty(neighbours.size * parcel.numel(), dtype=torch.uint8, device=self.device)
        peers = neighbours.size - 1
        started = self.clock()
        dist.all_gather_single(received, parcel, group=neighbours.group)
        self.note(Operation.RING, neighbours, started, parcel.nbytes * peers, values * peers)
        return received.view(neighbours.size, -1)

    def all_to_all(self, parcels: torch.Tensor, parcel_bytes: int, neighbours: Neighbours, values: int) -> torch.Tensor:
        """Send to each peer its own parcel of `parcel_bytes`; both tensors are [(size - 1) x parcel_bytes] uint8, the
        parcels in the order of the ranks without this one. `values` is what they hold together.
        """
        received = torch.empty_like(parcels)
        splits = [0 if index == neighbours.index else parcel_bytes for index in range(neighbours.size)]
        started = self.clock()
        dist.all_to_all_single(received, parcels, splits, splits, group=neighbours.group)
        self.note(Operation.ULYSSES, neighbours, started, parcels.nbytes, values)
        return received

    def note(self, operation: Operation, neighbours: Neighbours, started: float, sent_bytes: int, values: int) -> None:
        """Pace a collective that is over and write it down: what this rank sent in it, and since when it ran."""
        if self.pacer.emulates:
            self.clock()
            self.pacer.pace(started, sent_bytes, self.moment.job_step)
        seconds = self.clock() - started
        self.meter.samples.append(Sample(operation, neighbours.link_class, sent_bytes, values, seconds))
        self.meter.counted_bytes += sent_bytes


def _cuda_clock() -> float:
    """Wait for the device first: an exchange is strictly encode, send, decode, so nothing could overlap anyway."""
    torch.cuda.synchronize()
    return time.perf_counter()
