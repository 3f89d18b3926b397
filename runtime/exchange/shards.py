"""Keys and values of a ring's shards: laid out in rows for the codec, and put side by side again for attention.

Shapes: B batch, H heads, S tokens of one shard, D head dimension, R = B x S rows, C = H x D channels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from thinwire.compression import Exchange, Role, StreamId
from thinwire.runtime.exchange.moment import Moment
from thinwire.runtime.exchange.wire import Neighbours

ROLES = (Role.KEY, Role.VALUE)
AttentionFunction = Callable[..., tuple[torch.Tensor, ...]]


def rows_of(key_BHSD: torch.Tensor, value_BHSD: torch.Tensor) -> list[torch.Tensor]:
    """Return a shard's keys and values as contiguous [R, C]."""
    batch, heads, tokens, head_dim = key_BHSD.shape
    shape = (batch * tokens, heads * head_dim)
    return [tensor.transpose(1, 2).reshape(shape).contiguous() for tensor in (key_BHSD, value_BHSD)]


def heads_of(rows_RC: torch.Tensor, like_BHSD: torch.Tensor) -> torch.Tensor:
    """Return rows as [B, H, S, D], shaped like a tensor of the same shard size."""
    batch, heads, tokens, head_dim = like_BHSD.shape
    return rows_RC.view(batch, tokens, heads, head_dim).transpose(1, 2)


def side_by_side(shards: Sequence[Sequence[torch.Tensor]], like_BHSD: torch.Tensor) -> list[torch.Tensor]:
    """Return keys and values of all shards ([R, C] each) as [B, H, shards x S, D]."""
    batch, heads, tokens, head_dim = like_BHSD.shape
    return [
        torch.cat([shard[role].view(batch, tokens, heads, head_dim) for shard in shards], dim=1).transpose(1, 2)
        for role in range(len(ROLES))
    ]


def refuse_causal(*, is_causal: bool) -> None:
    """Raise NotImplementedError for causal attention, which no diffusion transformer here uses."""
    if is_causal:
        raise NotImplementedError("expected attention to all tokens, got is_causal: set compression mode Off")


@dataclass(slots=True)
class ShardStreams:
    """The streams of a layer's shards: naming them anew in every exchange would cost more than it says."""

    neighbours: Neighbours
    known: dict[tuple[int, int, int], list[StreamId]] = field(default_factory=dict)
    """By layer, branch and index of the sender."""

    def of(self, moment: Moment, index: int) -> list[StreamId]:
        """Return the streams of keys and values that the rank of this index sends now."""
        key = (moment.layer, moment.branch, index)
        streams = self.known.get(key)
        if streams is None:
            source = self.neighbours.ranks[index]
            streams = [StreamId(Exchange.RING, moment.layer, role, moment.branch, source) for role in ROLES]
            self.known[key] = streams
        return streams


def attend_once(
    attention_function: AttentionFunction,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    dropout_p: float,
    joint_attn_kwargs: dict[str, Any] | None,
    attention_kwargs: dict[str, Any] | None,
) -> torch.Tensor:
    """Attend to all shards in one call; text that upstream adds to the first or last shard is added to it, once."""
    joint = None if joint_attn_kwargs is None else joint_attn_kwargs | {"step": 0, "total_steps": 1}
    out_BHSD, *_ = attention_function(
        query,
        keys,
        values,
        dropout_p=dropout_p,
        is_causal=False,
        joint_attn_kwargs=joint,
        attention_kwargs=attention_kwargs,
    )
    return out_BHSD
