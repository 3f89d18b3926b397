"""Where xfuser looks for its exchange at call time, and how ours gets there and away again.

`USP` reads these names from its module's globals on every call, so replacing them reaches every model; `USP` itself is
imported by name and stays as it is. With compression off nothing here is called, and upstream's exchange is untouched.
"""

import importlib
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch.distributed as dist

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

    def put(self, name: str, replacement: Any) -> None:
        """Replace one of the module's functions."""
        self.upstream.setdefault(name, getattr(self.usp, name))
        setattr(self.usp, name, replacement)

    def remove(self) -> None:
        """Give upstream its functions back."""
        for name, function in self.upstream.items():
            setattr(self.usp, name, function)
        self.upstream.clear()


def ring_neighbours(world: World) -> Neighbours:
    """Return this rank's ring."""
    return _neighbours(world, _process_groups().RING_PG)


def ulysses_neighbours(world: World) -> Neighbours:
    """Return this rank's Ulysses group."""
    return _neighbours(world, _process_groups().ULYSSES_PG)


def open_seams() -> Seams:
    """Return the seams, with nothing replaced yet."""
    return Seams(importlib.import_module("xfuser.model_executor.layers.usp"))


def install(world: World, parcels: Parcels) -> Seams:
    """Put the coded exchange in upstream's place, for the dimensions that are split."""
    seams = open_seams()
    if world.degrees.ring > 1:
        seams.put("ring_attn", RingExchange(ring_neighbours(world), parcels).attend)
    if world.degrees.ulysses > 1:
        ulysses = UlyssesExchange(ulysses_neighbours(world), parcels)
        seams.put("_ft_c_input_all_to_all", ulysses.scatter_heads)
        seams.put("_combined_qkv_all_to_all", ulysses.scatter_combined)
        seams.put("_ft_c_output_all_to_all", ulysses.gather_heads)
    return seams


def _process_groups() -> Any:
    return importlib.import_module("yunchang.globals").PROCESS_GROUP


def _neighbours(world: World, group: dist.ProcessGroup) -> Neighbours:
    ranks = tuple(dist.get_process_group_ranks(group))
    return Neighbours(group, ranks, ranks.index(world.rank), world.link_class(list(ranks)))
