"""DistriFusion: attention to this step's own keys and values and to the others' of the step before.

What a rank gathers in a step is for the next one, so the whole transfer passes while this step and the beginning of the
next are computed (Li et al., DistriFusion, CVPR 2024, section 4.2; a transformer has no convolutions or group norms to
mend). In the warm-up steps a gather is waited for at once, and the result is exact.

A gather is read when its layer's turn comes in the next step, with the rungs of the step that it was packed in.
"""

from dataclasses import dataclass, field
from typing import Any

import torch

from thinwire.runtime.exchange.courier import Courier, Ticket
from thinwire.runtime.exchange.gather import GatherExchange
from thinwire.runtime.exchange.meter import Operation
from thinwire.runtime.exchange.parcels import Contents, Parcels
from thinwire.runtime.exchange.shards import AttentionFunction, attend_once, refuse_causal, rows_of, side_by_side
from thinwire.runtime.exchange.wire import Neighbours


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """A gather that has been posted and not been read."""

    ticket: Ticket
    contents: Contents
    values: int


@dataclass(slots=True)
class DistriFusionExchange:
    """Stands in for `usp.ring_attn`."""

    neighbours: Neighbours
    parcels: Parcels
    courier: Courier
    warmup_steps: int
    """Of every prompt; 1 at least."""
    gathering: GatherExchange = field(init=False)
    under_way: dict[tuple[int, int], _UnderWay] = field(default_factory=dict)
    """By layer and branch: what the next step will attend to."""
    fresh: dict[tuple[int, int], list[list[torch.Tensor]]] = field(default_factory=dict)
    """The same, of the last step of the warm-up, which has read it already."""

    def __post_init__(self) -> None:
        self.gathering = GatherExchange(self.neighbours, self.parcels, Operation.DISTRIFUSION)

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
        """Return the attention of `query` ([B, H, Sq, D]) to `key`, `value` ([B, H, S, D]) and the others' last."""
        refuse_causal(is_causal=is_causal)
        moment, own_RC = self.parcels.moment, rows_of(key, value)
        place = (moment.layer, moment.branch)
        shards = self._of_last_step(place)
        posted = self._post(own_RC)
        if shards is None or moment.step < self.warmup_steps:
            shards = self._read(posted)
            self.fresh[place] = shards
        else:
            self.under_way[place] = posted
        shards = [own_RC if index == self.neighbours.index else shard for index, shard in enumerate(shards)]
        keys, values = side_by_side(shards, key)
        return attend_once(attention_function, query, keys, values, dropout_p, joint_attn_kwargs, attention_kwargs)

    def _of_last_step(self, place: tuple[int, int]) -> list[list[torch.Tensor]] | None:
        """Return keys and values of every shard ([R, C] each; the own ones empty) that this layer gathered last."""
        posted = self.under_way.pop(place, None)
        return self.fresh.pop(place, None) if posted is None else self._read(posted)

    def _post(self, own_RC: list[torch.Tensor]) -> _UnderWay:
        wire, neighbours = self.parcels.wire, self.neighbours
        parcel, contents = self.gathering.packed(own_RC)
        wire.clock()  # the courier's thread must find the parcel written
        ticket = self.courier.post(lambda: wire.gather_beside(parcel, neighbours))
        return _UnderWay(ticket, contents, 2 * own_RC[0].numel())

    def _read(self, posted: _UnderWay) -> list[list[torch.Tensor]]:
        parcels, neighbours, operation = self.parcels, self.neighbours, Operation.DISTRIFUSION
        arrival, waited_seconds = posted.ticket.wait()
        peers = neighbours.size - 1
        sent_bytes = arrival.tensor[0].numel() * peers
        parcels.wire.note_arrival(
            operation, neighbours.link_class, arrival, waited_seconds, sent_bytes, posted.values * peers
        )
        return [
            []
            if index == neighbours.index
            else parcels.unpack(
                arrival.tensor[index], self.gathering.streams.of(parcels.moment, index), posted.contents, operation
            )
            for index in range(neighbours.size)
        ]

    def end_prompt(self) -> None:
        """Wait for what nobody will read: the gathers of the last step."""
        for posted in self.under_way.values():
            posted.ticket.wait()
        self.under_way.clear()
        self.fresh.clear()
