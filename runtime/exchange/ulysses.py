"""Ulysses through the codec: heads for tokens before attention, tokens for heads after it, coded per peer.

Shapes: B batch, H heads, S tokens of this shard, P ranks of the group, D head dimension. Before attention a rank sends
peer j the j-th group of H / P heads of its tokens and comes to hold its own heads of P x S tokens; afterwards it sends
peer j the j-th group of tokens and comes to hold all heads of its own S. What a rank keeps for itself stays exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from thinwire.compression import Exchange, Role, StreamId
from thinwire.runtime.exchange.meter import Operation
from thinwire.runtime.exchange.parcels import Parcels
from thinwire.runtime.exchange.streams import Shape
from thinwire.runtime.exchange.wire import Neighbours

_INPUT_ROLES = (Role.QUERY, Role.KEY, Role.VALUE)


@dataclass(slots=True)
class UlyssesExchange:
    """Stands in for `usp._ft_c_input_all_to_all`, `usp._combined_qkv_all_to_all` and `usp._ft_c_output_all_to_all`."""

    neighbours: Neighbours
    parcels: Parcels
    known_streams: dict[tuple[int, int, Role, int, int, int], list[StreamId]] = field(default_factory=dict)
    """By layer, branch, first role, how many roles, sender and receiver."""

    def scatter_heads(self, x: torch.Tensor) -> torch.Tensor:
        """Exchange query, key or value, which USP passes in this order: [B, H, S, D] to [B, H / P, P x S, D]."""
        moment = self.parcels.moment
        role = _INPUT_ROLES[moment.inputs_seen % len(_INPUT_ROLES)]
        moment.inputs_seen += 1
        return self._scatter_heads([x], [role])[0]

    def scatter_combined(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *extra: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Exchange query, key and value in one collective: each [B, H, S, D] to [B, H / P, P x S, D]."""
        if extra:
            raise NotImplementedError(
                f"expected query, key and value alone, got {len(extra)} more tensors: set compression mode Off"
            )
        return tuple(self._scatter_heads([query, key, value], _INPUT_ROLES))

    def gather_heads(self, x: torch.Tensor) -> torch.Tensor:
        """Exchange what attention gave: [B, H / P, P x S, D] to [B, H, S, D]."""
        batch, heads, all_tokens, head_dim = x.shape
        size = self.neighbours.size
        tokens = all_tokens // size
        if tokens * size != all_tokens:
            raise ValueError(f"expected a number of tokens divisible by {size}, got {all_tokens}: choose another size")
        outgoing = [[chunk.transpose(1, 2)] for chunk in torch.split(x, tokens, dim=2)]
        incoming = self._swap(outgoing, [Role.OUTPUT], Exchange.ULYSSES_OUTPUT)
        out_BSHD = torch.cat([parts[0].view(batch, tokens, heads, head_dim) for parts in incoming], dim=2)
        return out_BSHD.transpose(1, 2)

    def _scatter_heads(self, tensors_BHSD: Sequence[torch.Tensor], roles: Sequence[Role]) -> list[torch.Tensor]:
        size = self.neighbours.size
        chunks = [tensor.chunk(size, dim=1) for tensor in tensors_BHSD]
        outgoing = [[chunk[peer].transpose(1, 2) for chunk in chunks] for peer in range(size)]
        incoming = self._swap(outgoing, roles, Exchange.ULYSSES_INPUT)
        results = []
        for number, tensor in enumerate(tensors_BHSD):
            batch, heads, tokens, head_dim = tensor.shape
            shards = [parts[number].view(batch, tokens, heads // size, head_dim) for parts in incoming]
            results.append(torch.cat(shards, dim=1).transpose(1, 2))
        return results

    def _swap(
        self, outgoing: Sequence[Sequence[torch.Tensor]], roles: Sequence[Role], exchange: Exchange
    ) -> list[list[torch.Tensor]]:
        """Give every peer its tensors ([B, S, H, D] each) and return what every peer gave, in rows, by rank's index."""
        me, parcels = self.neighbours.index, self.parcels
        peers = [index for index in range(self.neighbours.size) if index != me]
        shapes = tuple(_rows_shape(tensor) for tensor in outgoing[me])
        dtype, device = outgoing[me][0].dtype, outgoing[me][0].device
        contents = parcels.contents(exchange, self.neighbours.link_class, roles, shapes, dtype)
        parcel_bytes = parcels.layout(contents).parcel_bytes
        sent = torch.empty((len(peers), parcel_bytes), dtype=torch.uint8, device=device)
        for place, peer in enumerate(peers):
            streams = self._streams(exchange, roles, source=me, destination=peer)
            rows = [tensor.reshape(shape).contiguous() for tensor, shape in zip(outgoing[peer], shapes, strict=True)]
            parcels.pack(sent[place], streams, rows, contents, Operation.ULYSSES)
        values = len(peers) * sum(rows * channels for rows, channels in shapes)
        received = parcels.wire.all_to_all(sent.view(-1), parcel_bytes, self.neighbours, values)
        parcels.meter.uncompressed_bytes += values * dtype.itemsize

        incoming: list[list[torch.Tensor]] = []
        for index in range(self.neighbours.size):
            if index == me:
                incoming.append([tensor.reshape(shape) for tensor, shape in zip(outgoing[me], shapes, strict=True)])
                continue
            place = peers.index(index)
            streams = self._streams(exchange, roles, source=index, destination=me)
            parcel = received[place * parcel_bytes : (place + 1) * parcel_bytes]
            incoming.append(parcels.unpack(parcel, streams, contents, Operation.ULYSSES))
        return incoming

    def _streams(self, exchange: Exchange, roles: Sequence[Role], source: int, destination: int) -> list[StreamId]:
        moment, ranks = self.parcels.moment, self.neighbours.ranks
        key = (moment.layer, moment.branch, roles[0], len(roles), source, destination)
        streams = self.known_streams.get(key)
        if streams is None:
            ends = (ranks[source], ranks[destination])
            streams = [StreamId(exchange, moment.layer, role, moment.branch, *ends) for role in roles]
            self.known_streams[key] = streams
        return streams


def _rows_shape(tensor_BSHD: torch.Tensor) -> Shape:
    batch, tokens, heads, head_dim = tensor_BSHD.shape
    return batch * tokens, heads * head_dim
