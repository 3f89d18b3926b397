"""Upstream's own exchange, timed, over an emulated link or beside a patch mode of ours: nothing is coded.

With `--emulate-link` and mode Off every collective takes as long as the link says, so that an uncompressed run can be
compared with a compressed one over the same link. Upstream overlaps a ring's transfer with attention; so does the pace,
which counts from the start of both.
"""

from collections.abc import Callable
from typing import Any

import torch

from thinwire.runtime.exchange.meter import Operation
from thinwire.runtime.exchange.seams import Exchanges, Seams, neighbours_of
from thinwire.runtime.exchange.seams import install as install_ours
from thinwire.runtime.exchange.upstream import guidance_coordinator
from thinwire.runtime.exchange.wire import Neighbours, Wire
from thinwire.runtime.parallel import World


def install(world: World, wire: Wire, ours: Exchanges) -> Seams:
    """Put the pace around upstream's collectives, for the dimensions that are split.

    ours: what takes the place of upstream's own all the same, without codec: patch modes, which it does not have, and
    PipeFusion, whose sends cannot be paced from outside.
    """
    seams, neighbours = install_ours(ours), neighbours_of(world)
    if world.degrees.ring > 1 and ours.ring is None:
        seams.put("ring_attn", _paced_ring(seams.usp.ring_attn, neighbours[Operation.RING], wire))
    if world.degrees.ulysses > 1:
        all_to_all = seams.usp.__dict__["_sdpa_all_to_all_single"]
        seams.put("_sdpa_all_to_all_single", _paced_all_to_all(all_to_all, neighbours[Operation.ULYSSES], wire))
    if world.degrees.cfg > 1:
        group = guidance_coordinator()
        seams.put_over(group, "all_gather", _paced_all_gather(group.all_gather, neighbours[Operation.GUIDANCE], wire))
    return seams


def _paced_ring(ring_attn: Callable[..., torch.Tensor], neighbours: Neighbours, wire: Wire) -> Any:
    def ring_attn_over_link(
        attention_function: object, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **options: Any
    ) -> torch.Tensor:
        started = wire.clock()
        out = ring_attn(attention_function, query, key, value, **options)
        peers = neighbours.size - 1
        wire.note(Operation.RING, neighbours, started, (key.nbytes + value.nbytes) * peers, 2 * key.numel() * peers)
        wire.meter.uncompressed_bytes += (key.nbytes + value.nbytes) * peers
        return out

    return ring_attn_over_link


def _paced_all_to_all(all_to_all: Callable[[torch.Tensor], torch.Tensor], neighbours: Neighbours, wire: Wire) -> Any:
    def all_to_all_over_link(x: torch.Tensor) -> torch.Tensor:
        started = wire.clock()
        out = all_to_all(x)
        leaving = x.numel() * (neighbours.size - 1) // neighbours.size
        wire.note(Operation.ULYSSES, neighbours, started, leaving * x.itemsize, leaving)
        wire.meter.uncompressed_bytes += leaving * x.itemsize
        return out

    return all_to_all_over_link


def _paced_all_gather(all_gather: Callable[..., Any], neighbours: Neighbours, wire: Wire) -> Any:
    def all_gather_over_link(input_: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        started = wire.clock()
        out = all_gather(input_, *arguments, **options)
        peers = neighbours.size - 1
        wire.note(Operation.GUIDANCE, neighbours, started, input_.nbytes * peers, input_.numel() * peers)
        wire.meter.uncompressed_bytes += input_.nbytes * peers
        return out

    return all_gather_over_link
