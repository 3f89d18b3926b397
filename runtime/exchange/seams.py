"""Where xfuser looks for its exchange at call time, and how ours gets there and away again.

`USP` reads these names from its module's globals on every call, so replacing them reaches every model; `USP` itself is
imported by name and stays as it is. With compression off nothing here is called, and upstream's exchange is untouched.
"""

import importlib
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch.distributed as dist

from thinwire.runtime.exchange.guidance import GuidanceExchange
from thinwire.runtime.exchange.meter import Operation
from thinwire.runtime.exchange.parcels import Parcels
from thinwire.runtime.exchange.ring import RingExchange
from thinwire.runtime.exchange.ulysses import UlyssesExchange
from thinwire.runtime.exchange.wire import Neighbours
from thinwire.runtime.parallel import World


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
    """Return this rank's group for every dimension that is split, in the same order on every rank."""
    found: dict[Operation, Neighbours] = {}
    if world.degrees.ring > 1:
        found[Operation.RING] = _neighbours(world, _process_groups().RING_PG)
    if world.degrees.ulysses > 1:
        found[Operation.ULYSSES] = _neighbours(world, _process_groups().ULYSSES_PG)
    if world.degrees.cfg > 1:
        found[Operation.GUIDANCE] = _neighbours(world, guidance_coordinator().device_group)
    return found


def guidance_coordinator() -> Any:
    """Return xfuser's group of the two guidance branches."""
    return importlib.import_module("xfuser.core.distributed.parallel_state").get_cfg_group()


def open_seams() -> Seams:
    """Return the seams, with nothing replaced yet."""
    return Seams(importlib.import_module("xfuser.model_executor.layers.usp"))


def install(world: World, parcels: Parcels) -> Seams:
    """Put the coded exchange in upstream's place, for the dimensions that are split."""
    seams, neighbours = open_seams(), neighbours_of(world)
    if world.degrees.ring > 1:
        seams.put("ring_attn", RingExchange(neighbours[Operation.RING], parcels).attend)
    if world.degrees.ulysses > 1:
        ulysses = UlyssesExchange(neighbours[Operation.ULYSSES], parcels)
        seams.put("_ft_c_input_all_to_all", ulysses.scatter_heads)
        seams.put("_combined_qkv_all_to_all", ulysses.scatter_combined)
        seams.put("_ft_c_output_all_to_all", ulysses.gather_heads)
    if world.degrees.cfg > 1:
        guidance = GuidanceExchange(neighbours[Operation.GUIDANCE], parcels)
        seams.put_over(guidance_coordinator(), "all_gather", guidance.all_gather)
    return seams


def _process_groups() -> Any:
    return importlib.import_module("yunchang.globals").PROCESS_GROUP


def _neighbours(world: World, group: dist.ProcessGroup) -> Neighbours:
    ranks = tuple(dist.get_process_group_ranks(group))
    return Neighbours(group, ranks, ranks.index(world.rank), world.link_class(list(ranks)))
