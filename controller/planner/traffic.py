"""What one rank gives to its peers in one step, from shapes and degrees alone.

The runtime counts what it really sends by the same rules; a test on real ranks compares the two byte by byte.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from thinwire.controller.planner.layout import Dimension, Layout, LinkClass

_ALIGNMENT_BYTES = 8
FrameBytes = Callable[["Flow"], int]
"""Prices what one peer gets of a flow, once."""


class Operation(StrEnum):
    """The collectives that carry it: the names of the runtime's own."""

    RING = "ring.all_gather"
    ULYSSES = "ulysses.all_to_all"
    GUIDANCE = "guidance.all_gather"


@dataclass(frozen=True, slots=True)
class Attention:
    """What attention works on in one forward of the transformer, over all ranks.

    `forwards` is how often the transformer runs in a step; `combines_inputs` whether query, key and value share a
    Ulysses collective; `text_tokens` are those that attention itself sees, 0 where text comes in elsewhere. A guidance
    branch predicts `latent_channels` (of a video, times its latent frames) of `latents` values each.
    """

    layers: int
    batch: int
    image_tokens: int
    text_tokens: int
    heads: int
    head_dim: int
    combines_inputs: bool
    latent_channels: int
    latents: int
    forwards: int = 1


@dataclass(frozen=True, slots=True)
class Flow:
    """One kind of tensor on its way to the peers, so many times a step; rows and channels are of what one peer gets."""

    operation: Operation
    link_class: LinkClass
    rows: int
    channels: int
    peers: int
    times: int

    @property
    def values(self) -> int:
        """Values that leave the rank in a step."""
        return self.rows * self.channels * self.peers * self.times

    @property
    def of_attention(self) -> bool:
        """Whether it belongs to a layer: the guidance branches belong to none."""
        return self.operation is not Operation.GUIDANCE

    @property
    def streams(self) -> int:
        """Bases that the rank keeps for it each time: as a sender, for every peer, and of guidance for itself."""
        if self.operation is Operation.GUIDANCE:
            return self.peers + 2
        return self.peers + (1 if self.operation is Operation.RING else self.peers)


@dataclass(frozen=True, slots=True)
class Traffic:
    """A step's flows and how many transfers carry them; attention's are alike in every one of `layers`."""

    layers: int
    flows: tuple[Flow, ...]
    operations: dict[Operation, tuple[LinkClass, int]]

    @property
    def link_classes(self) -> tuple[LinkClass, ...]:
        """The link classes in use, in a fixed order."""
        return tuple(one for one in LinkClass if any(flow.link_class is one for flow in self.flows))

    def over(self, link_class: LinkClass) -> tuple[Flow, ...]:
        """The flows over these links."""
        return tuple(flow for flow in self.flows if flow.link_class is link_class)

    def values_per_step(self, link_class: LinkClass) -> int:
        """Values that leave the rank in a step over these links."""
        return sum(flow.values for flow in self.over(link_class))

    def operations_per_step(self, link_class: LinkClass) -> int:
        """Transfers of a step over these links."""
        return sum(count for carrier, count in self.operations.values() if carrier is link_class)

    def bytes_per_step(self, link_class: LinkClass, frame_bytes: FrameBytes) -> int:
        """Bytes that leave the rank in a step over these links; every tensor begins at a multiple of eight."""
        return sum(
            flow.times * flow.peers * -(-frame_bytes(flow) // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
            for flow in self.over(link_class)
        )

    def millibits(self, frame_bytes: FrameBytes) -> int:
        """What travels for one value of all flows together, in thousandths of a bit, as a run announces it."""
        sent = sum(flow.times * flow.peers * frame_bytes(flow) for flow in self.flows)
        values = sum(flow.values for flow in self.flows)
        return -(-sent * 8_000 // values) if values else 0


def traffic_of(attention: Attention, layout: Layout, rank: int) -> Traffic:
    """Return what `rank` exchanges.

    Text that the sequence degree divides is sharded with the image; otherwise every rank has all of it and adds it to
    keys and values after the exchange, so that only queries and outputs carry it.
    """
    groups = {one: layout.group_of(one, rank) for one in (Dimension.ULYSSES, Dimension.RING, Dimension.CFG)}
    ulysses, ring, cfg = (len(group.ranks) if group else 1 for group in groups.values())
    sequence, times = ulysses * ring, attention.layers * attention.forwards
    batch = attention.batch // cfg
    sharded_text = attention.text_tokens % sequence == 0
    local_image = attention.image_tokens // sequence
    local_text = attention.text_tokens // sequence if sharded_text else 0
    key_rows = batch * (local_image + local_text)
    query_rows = key_rows if sharded_text else batch * (local_image + attention.text_tokens)
    channels = attention.heads // ulysses * attention.head_dim
    flows: list[Flow] = []
    operations: dict[Operation, tuple[LinkClass, int]] = {}
    if (group := groups[Dimension.ULYSSES]) is not None:
        sent_rows = (query_rows, key_rows, key_rows, query_rows)  # query, key and value, then what attention gave
        link = group.link_class
        flows.extend(Flow(Operation.ULYSSES, link, rows, channels, ulysses - 1, times) for rows in sent_rows)
        operations[Operation.ULYSSES] = (link, times * (2 if attention.combines_inputs and sharded_text else 4))
    if (group := groups[Dimension.RING]) is not None:
        link, rows = group.link_class, key_rows * ulysses
        flows.extend(Flow(Operation.RING, link, rows, channels, ring - 1, times) for _ in ("key", "value"))
        operations[Operation.RING] = (link, times * (ring - 1))  # a hop each
    if (group := groups[Dimension.CFG]) is not None:
        shape = attention.latent_channels, attention.latents // sequence
        flows.append(Flow(Operation.GUIDANCE, group.link_class, *shape, cfg - 1, 1))
        operations[Operation.GUIDANCE] = (group.link_class, 1)
    return Traffic(attention.layers, tuple(flows), operations)
