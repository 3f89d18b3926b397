"""What one rank gives to its peers in one step, from shapes and degrees alone.

The runtime counts what it really sends by the same rules; a test on real ranks compares the two byte by byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from thinwire.controller.manifest.job import PatchMode
from thinwire.controller.planner.layout import Dimension, Group, Layout, LinkClass

_ALIGNMENT_BYTES = 8
FrameBytes = Callable[["Flow"], int]
"""Prices what one peer gets of a flow, once."""


class Operation(StrEnum):
    """The collectives that carry it: the names of the runtime's own."""

    RING = "ring.all_gather"
    ULYSSES = "ulysses.all_to_all"
    GATHER = "patch.all_gather"
    DISTRIFUSION = "distrifusion.all_gather"
    GUIDANCE = "guidance.all_gather"
    PIPEFUSION = "pipefusion.send"


_OF_RING = {
    PatchMode.NONE: Operation.RING,
    PatchMode.GATHER: Operation.GATHER,
    PatchMode.DISTRIFUSION: Operation.DISTRIFUSION,
}
_OF_NO_LAYER = frozenset({Operation.GUIDANCE, Operation.PIPEFUSION})


@dataclass(frozen=True, slots=True)
class Attention:
    """What attention works on in one forward of the transformer, over all ranks.

    `forwards` is how often the transformer runs in a step; `combines_inputs` whether query, key and value share a
    Ulysses collective; `text_tokens` are those that attention itself sees, 0 where text comes in elsewhere, the most of
    any prompt where `text_varies`. A guidance branch predicts `latent_channels` (of a video, times its latent frames)
    of `latents` values each; `latents_are_tokens` says whether the pipeline keeps them token by token.
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
    latents_are_tokens: bool = False
    text_varies: bool = False


@dataclass(frozen=True, slots=True)
class Flow:
    """One kind of tensor on its way to the peers, so many times a step; rows and channels are of what one peer gets.

    `is_picture`: the picture itself or one of its guidance branches, which travel in 8 bits at least.
    """

    operation: Operation
    link_class: LinkClass
    rows: int
    channels: int
    peers: int
    times: int
    is_picture: bool = False

    @property
    def values(self) -> int:
        """Values that leave the rank in a step."""
        return self.rows * self.channels * self.peers * self.times

    @property
    def of_attention(self) -> bool:
        """Whether it belongs to a layer: guidance branches and what stages hand on belong to none."""
        return self.operation not in _OF_NO_LAYER

    @property
    def streams(self) -> int:
        """Bases that the rank keeps for it each time: as a sender, for every peer, and of guidance for itself."""
        match self.operation:
            case Operation.GUIDANCE:
                return self.peers + 2
            case Operation.PIPEFUSION:
                return 2  # one handed on, one taken in
            case Operation.ULYSSES:
                return 2 * self.peers
        return self.peers + 1


@dataclass(frozen=True, slots=True)
class Traffic:
    """A step's flows and how many transfers carry them; attention's are alike in every one of `layers`.

    `in_step` are the flows of the steps at the start of a picture in which PipeFusion's stages wait for each other and
    every layer sees the whole picture at once; without stages they are no others.
    """

    layers: int
    flows: tuple[Flow, ...]
    in_step: tuple[Flow, ...]
    operations: dict[Operation, tuple[LinkClass, int]]

    @property
    def has_stages(self) -> bool:
        """Whether attention goes uncoded while stages are in step."""
        return Operation.PIPEFUSION in self.operations

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

    def millibits(self, frame_bytes: FrameBytes) -> int:
        """What travels for one value of all flows together, in thousandths of a bit, as a run announces it."""
        sent = sum(flow.times * flow.peers * frame_bytes(flow) for flow in self.flows)
        values = sum(flow.values for flow in self.flows)
        return -(-sent * 8_000 // values) if values else 0


def bytes_of(flows: Iterable[Flow], frame_bytes: FrameBytes) -> int:
    """Bytes of these flows in a step; every tensor begins at a multiple of eight."""
    return sum(flow.times * flow.peers * -(-frame_bytes(flow) // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES for flow in flows)


def traffic_of(attention: Attention, layout: Layout, rank: int, patch_mode: PatchMode = PatchMode.NONE) -> Traffic:
    """Return what `rank` exchanges.

    Text that the sequence degree divides is sharded with the image; otherwise, and always between stages, every rank
    has all of it and adds it to keys and values after the exchange, so that only queries and outputs carry it. Of text
    that varies the most of both is counted.
    """
    groups: dict[Dimension, Group | None] = {one: layout.group_of(one, rank) for one in Dimension}
    place = _Place.of(attention, groups, rank, patch_mode)
    patches = place.stages
    flows, in_step = (tuple(place.flows(parts)) for parts in (patches, 1))
    return Traffic(place.layers, flows, in_step, place.operations())


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a rank stands, and what of the whole is its own."""

    attention: Attention
    groups: Mapping[Dimension, Group | None]
    ring_operation: Operation
    stages: int
    is_last: bool
    layers: int

    @classmethod
    def of(
        cls, attention: Attention, groups: Mapping[Dimension, Group | None], rank: int, patch_mode: PatchMode
    ) -> _Place:
        group = groups[Dimension.PIPEFUSION]
        stages, stage = (len(group.ranks), group.ranks.index(rank)) if group else (1, 0)
        of_a_stage = -(-attention.layers // stages)
        layers = min(of_a_stage, attention.layers - stage * of_a_stage)
        return cls(attention, groups, _OF_RING[patch_mode], stages, stage == stages - 1, layers)

    def degree(self, dimension: Dimension) -> int:
        group = self.groups[dimension]
        return len(group.ranks) if group else 1

    @property
    def sequence(self) -> int:
        return self.degree(Dimension.ULYSSES) * self.degree(Dimension.RING)

    @property
    def batch(self) -> int:
        return self.attention.batch // self.degree(Dimension.CFG)

    @property
    def shards_text(self) -> bool:
        attention = self.attention
        return (attention.text_varies or attention.text_tokens % self.sequence == 0) and self.stages == 1

    @property
    def shard_rows(self) -> int:
        """Rows of the image that are this rank's own."""
        return self.batch * (self.attention.image_tokens // self.sequence)

    @property
    def text_rows(self) -> int:
        """Rows of text that are this rank's own."""
        return self.batch * -(-self.attention.text_tokens // self.sequence) if self.shards_text else 0

    def flows(self, patches: int) -> Iterator[Flow]:
        """Yield what it sends in a step that takes the picture in so many patches."""
        attention, times = self.attention, self.layers * self.attention.forwards * patches
        ulysses, ring = self.degree(Dimension.ULYSSES), self.degree(Dimension.RING)
        channels = attention.heads // ulysses * attention.head_dim
        image_rows = self.shard_rows // patches
        key_rows = image_rows + self.text_rows
        always_sharded = self.shards_text and not attention.text_varies
        query_rows = key_rows if always_sharded else image_rows + self.batch * attention.text_tokens
        if (group := self.groups[Dimension.ULYSSES]) is not None:
            for rows in (query_rows, key_rows, key_rows, query_rows):  # query, key, value; then what attention gave
                yield Flow(Operation.ULYSSES, group.link_class, rows, channels, ulysses - 1, times)
        if (group := self.groups[Dimension.RING]) is not None:
            rows = (self.shard_rows + self.text_rows) * ulysses  # of the whole shard, though one patch of it is new
            for _ in ("key", "value"):
                yield Flow(self.ring_operation, group.link_class, rows, channels, ring - 1, times)
        if (group := self.groups[Dimension.CFG]) is not None and self.is_last:
            shape = self._latents(patches)
            yield Flow(Operation.GUIDANCE, group.link_class, *shape, len(group.ranks) - 1, patches, is_picture=True)
        if (group := self.groups[Dimension.PIPEFUSION]) is not None:
            yield from self._handed_on(group.link_class)

    def _handed_on(self, link: LinkClass) -> Iterator[Flow]:
        """What the next stage gets, patch by patch also while stages are in step; text comes with the first patch."""
        attention, width = self.attention, self.attention.heads * self.attention.head_dim
        if self.is_last:
            yield Flow(Operation.PIPEFUSION, link, *self._latents(self.stages), 1, self.stages, is_picture=True)
            return
        yield Flow(Operation.PIPEFUSION, link, self.shard_rows // self.stages, width, 1, self.stages)
        if attention.text_tokens:
            yield Flow(Operation.PIPEFUSION, link, self.batch * attention.text_tokens, width, 1, 1)

    def _latents(self, patches: int) -> tuple[int, int]:
        own = self.attention.latents // self.sequence // patches
        channels = self.attention.latent_channels
        return (own, channels) if self.attention.latents_are_tokens else (channels, own)

    def operations(self) -> dict[Operation, tuple[LinkClass, int]]:
        """How many transfers a step takes, and over which links."""
        times = self.layers * self.attention.forwards * self.stages
        found: dict[Operation, tuple[LinkClass, int]] = {}
        if (group := self.groups[Dimension.ULYSSES]) is not None:
            together = self.attention.combines_inputs and self.shards_text
            found[Operation.ULYSSES] = (group.link_class, times * (2 if together else 4))
        if (group := self.groups[Dimension.RING]) is not None:
            hops = len(group.ranks) - 1 if self.ring_operation is Operation.RING else 1
            found[self.ring_operation] = (group.link_class, times * hops)
        if (group := self.groups[Dimension.CFG]) is not None:
            found[Operation.GUIDANCE] = (group.link_class, self.stages)
        if (group := self.groups[Dimension.PIPEFUSION]) is not None:
            found[Operation.PIPEFUSION] = (group.link_class, self.stages + 1)
        return found
