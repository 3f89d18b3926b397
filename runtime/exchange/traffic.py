"""What one rank exchanges in one step, from shapes and degrees alone: the run is planned with it before it starts."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from thinwire.compression import Exchange, Role, Rung, frame_bytes
from thinwire.runtime.exchange.meter import Operation
from thinwire.runtime.facts import TrafficFacts
from thinwire.runtime.families.family import AttentionShape
from thinwire.runtime.parallel import Degrees, LinkClass


@dataclass(frozen=True, slots=True)
class Flow:
    """One tensor of one layer, on its way from one rank to its peers.

    rows, channels: of what one peer gets. A ring's peers all get the same frame; a Ulysses peer gets its own.
    """

    exchange: Exchange
    role: Role
    link_class: LinkClass
    rows: int
    channels: int
    peers: int

    @property
    def values(self) -> int:
        """Values that leave this rank."""
        return self.rows * self.channels * self.peers

    @property
    def streams(self) -> int:
        """Bases that this rank keeps for it: as a sender, and for every peer as a receiver."""
        return self.peers + (1 if self.exchange is Exchange.RING else self.peers)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Every layer's flows (the layers are alike) and how many collectives carry them."""

    layers: int
    flows: tuple[Flow, ...]
    operations: dict[Operation, tuple[LinkClass, int]]
    """Of one layer: over which links, how many."""

    @property
    def values_per_step(self) -> int:
        """Values that leave this rank in a step."""
        return self.layers * sum(flow.values for flow in self.flows)

    def facts(self) -> tuple[TrafficFacts, ...]:
        """Return the same by link class."""
        return tuple(
            TrafficFacts(
                link_class=link_class,
                values_per_step=self.layers * sum(flow.values for flow in self.flows if flow.link_class is link_class),
                operations_per_step=self.layers
                * sum(count for carrier, count in self.operations.values() if carrier is link_class),
            )
            for link_class in self.link_classes
        )

    @property
    def link_classes(self) -> Sequence[LinkClass]:
        """The link classes in use, in a fixed order."""
        used = {link_class for link_class, _ in self.operations.values()}
        return [link_class for link_class in LinkClass if link_class in used]

    def millibits(self, rung: Rung | None, dtype: torch.dtype) -> int:
        """Return what travels for one value of these flows, headers and scales included; None is no codec."""
        if rung is None:
            return dtype.itemsize * 8_000
        sent = sum(flow.peers * frame_bytes(rung, flow.rows, flow.channels, dtype) for flow in self.flows)
        values = sum(flow.values for flow in self.flows)
        return -(-sent * 8_000 // values) if values else rung.millibits


def plan_traffic(
    shape: AttentionShape, degrees: Degrees, ring: LinkClass, ulysses: LinkClass, *, combines_inputs: bool
) -> Traffic:
    """Return what one rank of these degrees exchanges for attention of this shape.

    Text that the sequence degree divides is sharded with the image; otherwise every rank has all of it and adds it to
    keys and values after the exchange, so that only queries and outputs carry it.
    """
    batch = shape.batch // degrees.cfg
    sharded_text = shape.text_tokens % degrees.sequence == 0
    local_image = shape.image_tokens // degrees.sequence
    local_text = shape.text_tokens // degrees.sequence if sharded_text else 0
    key_rows = batch * (local_image + local_text)
    query_rows = key_rows if sharded_text else batch * (local_image + shape.text_tokens)
    channels = shape.heads // degrees.ulysses * shape.head_dim
    flows: list[Flow] = []
    operations: dict[Operation, tuple[LinkClass, int]] = {}
    if degrees.ulysses > 1:
        peers = degrees.ulysses - 1
        inputs = ((Role.QUERY, query_rows), (Role.KEY, key_rows), (Role.VALUE, key_rows))
        flows.extend(Flow(Exchange.ULYSSES_INPUT, role, ulysses, rows, channels, peers) for role, rows in inputs)
        flows.append(Flow(Exchange.ULYSSES_OUTPUT, Role.OUTPUT, ulysses, query_rows, channels, peers))
        operations[Operation.ULYSSES] = (ulysses, 2 if combines_inputs and sharded_text else 4)
    if degrees.ring > 1:
        rows = key_rows * degrees.ulysses
        roles = (Role.KEY, Role.VALUE)
        flows.extend(Flow(Exchange.RING, role, ring, rows, channels, degrees.ring - 1) for role in roles)
        operations[Operation.RING] = (ring, 1)
    return Traffic(shape.layers, tuple(flows), operations)
