"""Ring attention through the codec: keys and values go round the ring, and each hop is on the wire while the shard in
hand is attended to.

Upstream gathers cat(K, V) whole before it attends to anything. Here coded parcels are handed on as they came, so every
rank decodes what the first sender coded, once. What attention to each shard gives is merged by log-sum-exp.
"""

from dataclasses import dataclass, field
from typing import Any

import torch

from thinwire.runtime.exchange.courier import Courier
from thinwire.runtime.exchange.gather import GatherExchange
from thinwire.runtime.exchange.meter import Operation
from thinwire.runtime.exchange.parcels import Parcels
from thinwire.runtime.exchange.shards import AttentionFunction, heads_of, refuse_causal, rows_of
from thinwire.runtime.exchange.wire import Neighbours


@dataclass(slots=True)
class RingExchange:
    """Stands in for `usp.ring_attn`."""

    neighbours: Neighbours
    parcels: Parcels
    courier: Courier
    gathering: GatherExchange = field(init=False)

    def __post_init__(self) -> None:
        self.gathering = GatherExchange(self.neighbours, self.parcels, Operation.RING)

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

        Joint text that upstream adds to the first or last shard is added there by the attention function, which counts
        the calls in `joint_attn_kwargs`.
        """
        refuse_causal(is_causal=is_causal)
        parcels, wire, neighbours = self.parcels, self.parcels.wire, self.neighbours
        values = 2 * key.numel()
        parcel, contents = self.gathering.packed(rows_of(key, value))
        merged = _Merged()
        shard = [key, value]
        for hop in range(1, neighbours.size + 1):
            last = hop == neighbours.size
            wire.clock()  # the courier's thread must find the parcel written
            ticket = None if last else self.courier.post(_hop(wire, parcel, neighbours))
            out, log_sum_exp, *_ = attention_function(
                query,
                *shard,
                dropout_p=dropout_p,
                is_causal=False,
                joint_attn_kwargs=joint_attn_kwargs,
                attention_kwargs=attention_kwargs,
            )
            merged.add(out, log_sum_exp)
            if ticket is None:
                break
            arrival, waited_seconds = ticket.wait()
            wire.note_arrival(Operation.RING, neighbours.link_class, arrival, waited_seconds, parcel.nbytes, values)
            parcel = arrival.tensor
            streams = self.gathering.streams.of(parcels.moment, (neighbours.index - hop) % neighbours.size)
            shard = [heads_of(rows, key) for rows in parcels.unpack(parcel, streams, contents, Operation.RING)]
        return merged.result(query.dtype)


def _hop(wire: Any, parcel: torch.Tensor, neighbours: Neighbours) -> Any:
    return lambda: wire.hop_beside(parcel, neighbours)


@dataclass(slots=True)
class _Merged:
    """Attention to some shards, in float32: out [B, H, S, D], log-sum-exp [B, H, S] (some kernels pad S)."""

    out: torch.Tensor | None = None
    log_sum_exp: torch.Tensor | None = None

    def add(self, out: torch.Tensor, log_sum_exp: torch.Tensor) -> None:
        """Bring in attention to a further shard (online softmax, as in Liu et al., Ring Attention, 2023)."""
        out, log_sum_exp = out.float(), log_sum_exp[..., : out.shape[2], None].float()
        if self.out is None or self.log_sum_exp is None:
            self.out, self.log_sum_exp = out, log_sum_exp
            return
        weight = torch.sigmoid(log_sum_exp - self.log_sum_exp)
        self.out = torch.lerp(self.out, out, weight)
        self.log_sum_exp = torch.logaddexp(self.log_sum_exp, log_sum_exp)

    def result(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the attention to all of them."""
        assert self.out is not None
        return self.out.to(dtype)
