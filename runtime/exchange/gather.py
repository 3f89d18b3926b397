"""Patch gather: a rank collects the keys and values of all others of its ring, through the codec, then attends once.

The shards lie side by side and one attention sees them all: the same result as a ring's up to rounding. A rank attends
to its own keys and values as they are, and to what it decoded of the others'.
"""

from dataclasses import dataclass, field
from typing import Any

import torch

from thinwire.compression import Exchange
from thinwire.runtime.exchange.meter import Operation
from thinwire.runtime.exchange.parcels import Contents, Parcels
from thinwire.runtime.exchange.shards import (
    ROLES,
    AttentionFunction,
    ShardStreams,
    attend_once,
    refuse_causal,
    rows_of,
    side_by_side,
)
from thinwire.runtime.exchange.wire import Neighbours


@dataclass(slots=True)
class GatherExchange:
    """Stands in for `usp.ring_attn`."""

    neighbours: Neighbours
    parcels: Parcels
    operation: Operation = Operation.GATHER
    streams: ShardStreams = field(init=False)

    def __post_init__(self) -> None:
        self.streams = ShardStreams(self.neighbours)

    def attend(
        self,
        attention_function: AttentionFunction,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        joint_attn_kwargs: dict[str, Any] | None = None,
        attention_kwargs: dict[str, Any] | None = None,
    ) -> torch.Tensor:
        """Return the attention of `query` ([B, H, Sq, D]) to every shard's `key` and `value` ([B, H, S, D] here)."""
        refuse_causal(is_causal=is_causal)
        shards = self.gather(rows_of(key, value))
        keys, values = side_by_side(shards, key)
        return attend_once(attention_function, query, keys, values, dropout_p, joint_attn_kwargs, attention_kwargs)

    def gather(self, own_RC: list[torch.Tensor]) -> list[list[torch.Tensor]]:
        """Return keys and values of every shard, [R, C] each, by the index of its rank."""
        parcels, moment = self.parcels, self.parcels.moment
        parcel, contents = self.packed(own_RC)
        received = parcels.wire.all_gather(parcel, self.neighbours, 2 * own_RC[0].numel(), self.operation)
        return [
            own_RC
            if index == self.neighbours.index
            else parcels.unpack(received[index], self.streams.of(moment, index), contents, self.operation)
            for index in range(self.neighbours.size)
        ]

    def packed(self, own_RC: list[torch.Tensor]) -> tuple[torch.Tensor, Contents]:
        """Return this rank's parcel and what it holds, and count what it would be without codec."""
        parcels, neighbours = self.parcels, self.neighbours
        shape, dtype = (own_RC[0].shape[0], own_RC[0].shape[1]), own_RC[0].dtype
        contents = parcels.contents(Exchange.RING, neighbours.link_class, ROLES, (shape, shape), dtype)
        parcel = torch.empty(parcels.layout(contents).parcel_bytes, dtype=torch.uint8, device=own_RC[0].device)
        parcels.pack(parcel, self.streams.of(parcels.moment, neighbours.index), own_RC, contents, self.operation)
        parcels.meter.uncompressed_bytes += 2 * own_RC[0].nbytes * (neighbours.size - 1)
        return parcel, contents
