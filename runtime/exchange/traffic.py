"""What one rank exchanges in one step, from shapes and degrees alone: the run is planned with it before it starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from thinwire.compression import Exchange, Role, Rung, frame_bytes
from thinwire.runtime.exchange.floors import ATTENTION, coded_with
from thinwire.runtime.exchange.meter import Operation
from thinwire.runtime.facts import TrafficFacts
from thinwire.runtime.families.family import AttentionShape
from thinwire.runtime.parallel import Degrees, LinkClass, PatchMode


@dataclass(frozen=True, slots=True)
class Flow:
    """One kind of tensor on its way from one rank to its peers, so many times in a step.

    rows, channels: of what one peer gets. In a gather every peer gets the same frame; a Ulysses peer gets its own.
    """

    exchange: Exchange
    role: Role
    link_class: LinkClass
    rows: int
    channels: int
    peers: int
    times: int
    branches: int = 1
    """Forwards of a step, each with bases of its own."""

    @property
    def values(self) -> int:
        """Values that leave this rank in a step."""
        return self.rows * self.channels * self.peers * self.times

    @property
    def streams(self) -> int:
        """Bases that this rank keeps for it in a layer: as a sender, and for every peer as a receiver."""
        if self.exchange is Exchange.GUIDANCE:
            return self.peers + 2  # a rank reads its own frame too
        if self.exchange is Exchange.PIPEFUSION:
            return 2  # one handed on, one taken in
        return self.branches * (self.peers + (1 if self.exchange is Exchange.RING else self.peers))

    def sent_bytes(self, rung: Rung, dtype: torch.dtype) -> int:
        """Return what leaves this rank in a step when `rung` is commanded, headers and scales included."""
        coded = coded_with(self.exchange, self.role, rung)
        return self.times * self.peers * frame_bytes(coded, self.rows, self.channels, dtype)


@dataclass(frozen=True, slots=True)
class Traffic:
    """A step's flows and how many transfers carry them. Attention's flows are alike in every one of the layers."""

    layers: int
    flows: tuple[Flow, ...]
    operations: Mapping[Operation, tuple[LinkClass, int]]
    """Of one step: over which links, how many."""
    varies: bool = False
    """Whether text, and with it what is exchanged, is as long as each prompt's; the flows are then the most."""

    @property
    def values_per_step(self) -> int:
        """Values that leave this rank in a step."""
        return sum(flow.values for flow in self.flows)

    @property
    def transfers_per_step(self) -> int:
        """Transfers that this rank takes part in."""
        return sum(count for _, count in self.operations.values())

    @property
    def attention_flows(self) -> Sequence[Flow]:
        """Those of the layers."""
        return [flow for flow in self.flows if flow.exchange in ATTENTION]

    @property
    def other_flows(self) -> Sequence[Flow]:
        """Those that belong to no layer."""
        return [flow for flow in self.flows if flow.exchange not in ATTENTION]

    def facts(self) -> tuple[TrafficFacts, ...]:
        """Return the same by link class."""
        return tuple(
            TrafficFacts(
                link_class=link_class,
                values_per_step=sum(flow.values for flow in self.flows if flow.link_class is link_class),
                operations_per_step=sum(count for carrier, count in self.operations.values() if carrier is link_class),
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
        sent = sum(flow.sent_bytes(rung, dtype) for flow in self.flows)
        return -(-sent * 8_000 // self.values_per_step) if self.flows else rung.millibits


def ring_operation(degrees: Degrees) -> Operation:
    """Return what carries keys and values between the ranks of a ring."""
    return {
        PatchMode.NONE: Operation.RING,
        PatchMode.GATHER: Operation.GATHER,
        PatchMode.DISTRIFUSION: Operation.DISTRIFUSION,
    }[degrees.patch_mode]


def plan_traffic(
    shape: AttentionShape,
    degrees: Degrees,
    links: Mapping[Operation, LinkClass],
    *,
    combines_inputs: bool,
    is_last_stage: bool = False,
) -> Traffic:
    """Return what one rank of these degrees exchanges for attention of this shape.

    links: what lies between the ranks of each operation; one that is missing is within a node. Text that the sequence
    degree divides is sharded with the image; otherwise every rank has all of it and adds it to keys and values after
    the exchange, so that only queries and outputs carry it. Under PipeFusion a step has a turn for each patch, as many
    as stages, and text is never sharded; the last stage hands on latents, the others hidden states. Text that varies
    may be sharded for one prompt and not for the next: the flows are the most that either sends.
    """
    stages = patches = degrees.pipefusion
    layers = -(-shape.layers // stages)
    turns = patches * layers
    batch = shape.batch // degrees.cfg
    sharded_text = (shape.text_varies or shape.text_tokens % degrees.sequence == 0) and stages == 1
    shard_rows = batch * (shape.image_tokens // degrees.sequence)
    text_rows = batch * -(-shape.text_tokens // degrees.sequence) if sharded_text else 0
    image_rows = shard_rows // patches
    key_rows = image_rows + text_rows
    always_sharded = sharded_text and not shape.text_varies
    query_rows = key_rows if always_sharded else image_rows + batch * shape.text_tokens
    width = shape.heads * shape.head_dim
    latents = shape.latent_channels, shape.latents // degrees.sequence // patches

    def link(operation: Operation) -> LinkClass:
        return links.get(operation, LinkClass.INTRA_NODE)

    flows: list[Flow] = []
    operations: dict[Operation, tuple[LinkClass, int]] = {}
    repeated = (turns * shape.forwards, shape.forwards * patches)
    if degrees.ulysses > 1:
        over, peers, channels = link(Operation.ULYSSES), degrees.ulysses - 1, width // degrees.ulysses
        inputs = ((Role.QUERY, query_rows), (Role.KEY, key_rows), (Role.VALUE, key_rows))
        flows += [Flow(Exchange.ULYSSES_INPUT, role, over, rows, channels, peers, *repeated) for role, rows in inputs]
        flows.append(Flow(Exchange.ULYSSES_OUTPUT, Role.OUTPUT, over, query_rows, channels, peers, *repeated))
        operations[Operation.ULYSSES] = (over, repeated[0] * (2 if combines_inputs and sharded_text else 4))
    if degrees.ring > 1:
        # Under PipeFusion every turn exchanges the whole shard, of which one part is new.
        operation = ring_operation(degrees)
        over, rows, channels = link(operation), shard_rows + text_rows, width // degrees.ulysses
        rows *= degrees.ulysses
        roles = (Role.KEY, Role.VALUE)
        flows += [Flow(Exchange.RING, role, over, rows, channels, degrees.ring - 1, *repeated) for role in roles]
        hops = degrees.ring - 1 if operation is Operation.RING else 1
        operations[operation] = (over, repeated[0] * hops)
    if degrees.cfg > 1:
        over = link(Operation.GUIDANCE)
        if stages == 1 or is_last_stage:
            flows.append(Flow(Exchange.GUIDANCE, Role.OUTPUT, over, *latents, degrees.cfg - 1, patches))
        operations[Operation.GUIDANCE] = (over, patches)
    if stages > 1:
        over = link(Operation.PIPEFUSION)
        if is_last_stage:
            flows.append(Flow(Exchange.PIPEFUSION, Role.OUTPUT, over, *latents, 1, patches))
        else:
            flows.append(Flow(Exchange.PIPEFUSION, Role.HIDDEN, over, shard_rows // patches, width, 1, patches))
            if shape.text_tokens:
                flows.append(Flow(Exchange.PIPEFUSION, Role.HIDDEN, over, batch * shape.text_tokens, width, 1, 1))
        operations[Operation.PIPEFUSION] = (over, patches + 1)
    return Traffic(layers, tuple(flows), operations, shape.text_varies)
