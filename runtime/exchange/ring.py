"""Ring attention through the codec: a rank gives its keys and values to all others of its ring, then attends to all.

Shapes: B batch, H heads, S tokens of this shard, D head dimension, R = B x S rows, C = H x D channels.

Upstream gathers cat(K, V) whole and merges one attention per shard by log-sum-exp. Here the shards lie side by side and
one attention sees them all: the same result up to rounding, in one call. A rank attends to its own keys and values as
they are, and to what it decoded of the others'.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from thinwire.compression import Exchange, Role, StreamId
from thinwire.runtime.exchange.meter import Operation
from thinwire.runtime.exchange.parcels import Parcels
from thinwire.runtime.exchange.wire import Neighbours

_ROLES = (Role.KEY, Role.VALUE)
AttentionFunction = Callable[..., tuple[torch.Tensor, ...]]


@dataclass(slots=True)
class RingExchange:
    """Stands in for `usp.ring_attn`."""

    neighbours: Neighbours
    parcels: Parcels
    known_streams: dict[tuple[int, int, int], list[StreamId]] = field(default_factory=dict)
    """By layer, branch and index of the sender: naming them anew in every exchange would cost more than it says."""

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
        """Return the attention of `query` ([B, H, Sq, D]) to every shard's `key` and `value` ([B, H, S, D] here).

        Joint text that upstream adds to the first or last shard is added once, to the one call. Raises
        NotImplementedError for causal attention, which no diffusion transformer here uses.
        """
        if is_causal:
            raise NotImplementedError("expected attention to all tokens, got is_causal: set compression mode Off")
        keys_BHSD, values_BHSD = self._gather(key, value)
        joint = None if joint_attn_kwargs is None else joint_attn_kwargs | {"step": 0, "total_steps": 1}
        out_BHSD, *_ = attention_function(
            query,
            keys_BHSD,
            values_BHSD,
            dropout_p=dropout_p,
            is_causal=False,
            joint_attn_kwargs=joint,
            attention_kwargs=attention_kwargs,
        )
        return out_BHSD

    def _gather(self, key_BHSD: torch.Tensor, value_BHSD: torch.Tensor) -> list[torch.Tensor]:
        batch, heads, tokens, head_dim = key_BHSD.shape
        shape, dtype, parcels = (batch * tokens, heads * head_dim), key_BHSD.dtype, self.parcels
        contents = parcels.contents(Exchange.RING, self.neighbours.link_class, _ROLES, (shape, shape), dtype)
        own_RC = [tensor.transpose(1, 2).reshape(shape).contiguous() for tensor in (key_BHSD, value_BHSD)]
        parcel_bytes = parcels.layout(contents).parcel_bytes
        parcel = torch.empty(parcel_bytes, dtype=torch.uint8, device=key_BHSD.device)
        parcels.pack(parcel, self._streams(self.neighbours.index), own_RC, contents, Operation.RING)
        received = parcels.wire.all_gather(parcel, self.neighbours, 2 * own_RC[0].numel())
        parcels.meter.uncompressed_bytes += 2 * own_RC[0].nbytes * (self.neighbours.size - 1)

        shards: list[list[torch.Tensor]] = []
        for index in range(self.neighbours.size):
            if index == self.neighbours.index:
                shards.append(own_RC)
            else:
                shards.append(parcels.unpack(received[index], self._streams(index), contents, Operation.RING))
        return [
            torch.cat([shard[role].view(batch, tokens, heads, head_dim) for shard in shards], dim=1).transpose(1, 2)
            for role in range(len(_ROLES))
        ]

    def _streams(self, index: int) -> list[StreamId]:
        moment = self.parcels.moment
        key = (moment.layer, moment.branch, index)
        streams = self.known_streams.get(key)
        if streams is None:
            source = self.neighbours.ranks[index]
            streams = [StreamId(Exchange.RING, moment.layer, role, moment.branch, source) for role in _ROLES]
            self.known_streams[key] = streams
        return streams
