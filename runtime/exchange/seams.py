"""Where xfuser looks for its exchange at call time, and how ours gets there and away again.

`USP` reads these names from its module's globals on every call, so replacing them reaches every model; `USP` itself is
imported by name and stays as it is. With compression off nothing here is called, and upstream's exchange is untouched.
"""

from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch.distributed as dist

from thinwire.runtime.exchange import upstream
from thinwire.runtime.exchange.courier import Courier
from thinwire.runtime.exchange.distrifusion import DistriFusionExchange
from thinwire.runtime.exchange.gather import GatherExchange
from thinwire.runtime.exchange.guidance import GuidanceExchange
from thinwire.runtime.exchange.meter import Operation
from thinwire.runtime.exchange.parcels import Parcels
from thinwire.runtime.exchange.pipeline import PipelineExchange
from thinwire.runtime.exchange.ring import RingExchange
from thinwire.runtime.exchange.traffic import ring_operation
from thinwire.runtime.exchange.ulysses import UlyssesExchange
from thinwire.runtime.exchange.wire import Neighbours
from thinwire.runtime.parallel import PatchMode, World


@dataclass(slots=True)
class Seams:
    """Upstream's functions while ours stand in their place."""

    usp: ModuleType
    upstream: dict[str, Any] = field(default_factory=dict)
    """Of the module, by name."""
    coordinators: list[tuple[Any, str]] = field(default_factory=list)
    """Groups of xfuser's with a method of ours over their own."""

    def put(self, name: str, replacement: Any) -> None:
        """Replace one of the module's functions."""
        self.upstream.setdefault(name, getattr(self.usp, name))
        setattr(self.usp, name, replacement)

    def put_over(self, coordinator: Any, name: str, replacement: Any) -> None:
        """Put a method in front of a group's own."""
        setattr(coordinator, name, replacement)
        self.coordinators.append((coordinator, name))

    def remove(self) -> None:
        """Give upstream its functions back."""
        for name, function in self.upstream.items():
            setattr(self.usp, name, function)
        self.upstream.clear()
        for coordinator, name in self.coordinators:
            delattr(coordinator, name)
        self.coordinators.clear()


def neighbours_of(world: World) -> dict[Operation, Neighbours]:
    """Return this rank's group for every dimension that is split, in the same order on every rank.

    PipeFusion's is this rank alone, since the receiver times a transfer, with what lies between all of its stages:
    every one of them has to know the same link classes.
    """
    found: dict[Operation, Neighbours] = {}
    if world.degrees.ring > 1:
        found[ring_operation(world.degrees)] = _neighbours(world, upstream.process_groups().RING_PG)
    if world.degrees.ulysses > 1:
        found[Operation.ULYSSES] = _neighbours(world, upstream.process_groups().ULYSSES_PG)
    if world.degrees.cfg > 1:
        found[Operation.GUIDANCE] = _neighbours(world, upstream.guidance_coordinator().device_group)
    if world.degrees.pipefusion > 1:
        stages = upstream.pipeline_coordinator()
        link_class = world.link_class(list(stages.ranks))
        found[Operation.PIPEFUSION] = Neighbours(stages.device_group, (world.rank,), 0, link_class)
    return found


def open_seams() -> Seams:
    """Return the seams, with nothing replaced yet."""
    return Seams(upstream.usp())


@dataclass(frozen=True, slots=True)
class Exchanges:
    """What stands in upstream's place, for the dimensions that are split."""

    ring: RingExchange | GatherExchange | DistriFusionExchange | None = None
    ulysses: UlyssesExchange | None = None
    guidance: GuidanceExchange | None = None
    pipeline: PipelineExchange | None = None

    def end_prompt(self) -> None:
        """Wait for what is still under way of a prompt and that nobody will read."""
        if self.pipeline is not None:
            self.pipeline.forget_sends()
        if isinstance(self.ring, DistriFusionExchange):
            self.ring.end_prompt()

    def close(self) -> None:
        """Let the couriers go."""
        for exchange in (self.ring, self.pipeline):
            if exchange is not None and not isinstance(exchange, GatherExchange):
                exchange.courier.close()


def ring_exchange(
    world: World, parcels: Parcels, synchronous_steps: int
) -> RingExchange | GatherExchange | DistriFusionExchange | None:
    """Return what exchanges keys and values in this patch mode."""
    if world.degrees.ring == 1:
        return None
    neighbours = neighbours_of(world)[ring_operation(world.degrees)]
    match world.degrees.patch_mode:
        case PatchMode.GATHER:
            return GatherExchange(neighbours, parcels)
        case PatchMode.DISTRIFUSION:
            return DistriFusionExchange(neighbours, parcels, Courier(world.device), synchronous_steps)
    return RingExchange(neighbours, parcels, Courier(world.device))


def install(exchanges: Exchanges) -> Seams:
    """Put exchanges of ours in upstream's place."""
    seams = open_seams()
    if exchanges.ring is not None:
        seams.put("ring_attn", exchanges.ring.attend)
    if exchanges.ulysses is not None:
        seams.put("_ft_c_input_all_to_all", exchanges.ulysses.scatter_heads)
        seams.put("_combined_qkv_all_to_all", exchanges.ulysses.scatter_combined)
        seams.put("_ft_c_output_all_to_all", exchanges.ulysses.gather_heads)
    if exchanges.guidance is not None:
        seams.put_over(upstream.guidance_coordinator(), "all_gather", exchanges.guidance.all_gather)
    if exchanges.pipeline is not None:
        for name in PipelineExchange.METHODS:
            seams.put_over(exchanges.pipeline.coordinator, name, getattr(exchanges.pipeline, name))
    return seams


def _neighbours(world: World, group: dist.ProcessGroup) -> Neighbours:
    ranks = tuple(dist.get_process_group_ranks(group))
    return Neighbours(group, ranks, ranks.index(world.rank), world.link_class(list(ranks)))
