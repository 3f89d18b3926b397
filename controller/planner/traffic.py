"""What one rank gives to its peers in one step, from shapes and degrees alone.

The runtime counts what it really sends by the same rules; a test on real ranks compares the two byte by byte.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from thinwire.controller.planner.layout import Dimension, Layout, LinkClass

_ALIGNMENT_BYTES = 8


class Operation(StrEnum):
    """The collectives that carry it: the names of the runtime's own."""

    RING = "ring.all_gather"
    ULYSSES = "ulysses.all_to_all"


@dataclass(frozen=True, slots=True)
class Attention:
    """What attention works on in one forward of the transformer, over all ranks.

    `forwards` is how often the transformer runs in a step; `combines_inputs` whether query, key and value share a
    Ulysses collective; `text_tokens` are those that attention itself sees, 0 where text comes in elsewhere.
    """

    layers: int
    batch: int
    image_tokens: int
    text_tokens: int
    heads: int
    head_dim: int
    combines_inputs: bool
    forwards: int = 1

    @property
    def values(self) -> int:
        """Values of one tensor of a layer, over all ranks."""
        return self.batch * (self.image_tokens + self.text_tokens) * self.heads * self.head_dim


@dataclass(frozen=True, slots=True)
class Flow:
    """One tensor of one layer on its way to the peers; rows and channels are of what one peer gets."""

    operation: Operation
    link_class: LinkClass
    rows: int
    channels: int
    peers: int

    @property
    def values(self) -> int:
        """Values that leave the rank."""
        return self.rows * self.channels * self.peers

    @property
    def streams(self) -> int:
        """Bases that the rank keeps: as a sender (one for a ring, one per Ulysses peer), and for every peer."""
        return self.peers + (1 if self.operation is Operation.RING else self.peers)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Flows of a layer (the layers are alike), and how many collectives carry them."""

    layers: int
    forwards: int
    flows: tuple[Flow, ...]
    operations: dict[Operation, tuple[LinkClass, int]]

    @property
    def link_classes(self) -> tuple[LinkClass, ...]:
        """The link classes in use, in a fixed order."""
        return tuple(one for one in LinkClass if any(flow.link_class is one for flow in self.flows))

    def values_per_step(self, link_class: LinkClass) -> int:
        """Values that leave the rank in a step over these links."""
        return self.layers * self.forwards * sum(flow.values for flow in self.flows if flow.link_class is link_class)

    def operations_per_step(self, link_class: LinkClass) -> int:
        """Collectives of a step over these links."""
        counts = (count for carrier, count in self.operations.values() if carrier is link_class)
        return self.layers * self.forwards * sum(counts)

    def bytes_per_step(self, link_class: LinkClass, frame_bytes: Callable[[int, int], int], *, layers: int) -> int:
        """Bytes that leave the rank in a step over these links in so many of its layers.

        `frame_bytes` prices [rows, channels]; every tensor begins at a multiple of eight bytes.
        """
        sent = sum(
            flow.peers * (-(-frame_bytes(flow.rows, flow.channels) // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES)
            for flow in self.flows
            if flow.link_class is link_class
        )
        return layers * self.forwards * sent

    def millibits(self, frame_bytes: Callable[[int, int], int]) -> int:
        """What travels for one value of all flows together, in thousandths of a bit, as a run announces it."""
        sent = sum(flow.peers * frame_bytes(flow.rows, flow.channels) for flow in self.flows)
        values = sum(flow.values for flow in self.flows)
        return -(-sent * 8_000 // values) if values else 0


def traffic_of(attention: Attention, layout: Layout, rank: int) -> Traffic:
    """Return what `rank` exchanges.

    Text that the sequence degree divides is sharded with the image; otherwise every rank has all of it and adds it to
    keys and values after the exchange, so that only queries and outputs carry it.
    """
    groups = {one: layout.group_of(one, rank) for one in (Dimension.ULYSSES, Dimension.RING, Dimension.CFG)}
    ulysses, ring, cfg = (len(group.ranks) if group else 1 for group in groups.values())
    sequence = ulysses * ring
    batch = attention.batch // cfg if attention.batch > 1 else attention.batch
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
        flows.extend(Flow(Operation.ULYSSES, group.link_class, rows, channels, ulysses - 1) for rows in sent_rows)
        operations[Operation.ULYSSES] = (group.link_class, 2 if attention.combines_inputs and sharded_text else 4)
    if (group := groups[Dimension.RING]) is not None:
        rows = key_rows * ulysses
        flows.extend(Flow(Operation.RING, group.link_class, rows, channels, ring - 1) for _ in ("key", "value"))
        operations[Operation.RING] = (group.link_class, 1)
    return Traffic(attention.layers, attention.forwards, tuple(flows), operations)
