"""The two guidance branches, computed on different ranks, brought together through the codec.

Both ranks go on with the same numbers: each decodes its own frame too, or their latents would drift apart.
"""

from dataclasses import dataclass

import torch

from thinwire.compression import Exchange, Role, StreamId
from thinwire.runtime.exchange.meter import Operation
from thinwire.runtime.exchange.parcels import Parcels
from thinwire.runtime.exchange.wire import Neighbours

_ROLES = (Role.OUTPUT,)


@dataclass(slots=True)
class GuidanceExchange:
    """Stands in for the guidance group's `all_gather`."""

    neighbours: Neighbours
    parcels: Parcels

    def all_gather(
        self, input_: torch.Tensor, dim: int = 0, separate_tensors: bool = False
    ) -> torch.Tensor | list[torch.Tensor]:
        """Return every branch's tensor, in the order of the ranks: one by one, or side by side along `dim`."""
        parcels, operation = self.parcels, Operation.GUIDANCE
        rows_RC = _rows(input_)
        shape, link_class = (rows_RC.shape[0], rows_RC.shape[1]), self.neighbours.link_class
        contents = parcels.contents(Exchange.GUIDANCE, link_class, _ROLES, (shape,), input_.dtype)
        parcel = torch.empty(parcels.layout(contents).parcel_bytes, dtype=torch.uint8, device=input_.device)
        parcels.pack(parcel, self._streams(self.neighbours.index), [rows_RC], contents, operation)
        received = parcels.wire.all_gather(parcel, self.neighbours, input_.numel(), operation)
        parcels.meter.uncompressed_bytes += input_.nbytes * (self.neighbours.size - 1)
        branches = [
            parcels.unpack(received[index], self._streams(index), contents, operation)[0].view(input_.shape)
            for index in range(self.neighbours.size)
        ]
        return branches if separate_tensors else torch.cat(branches, dim=dim)

    def _streams(self, index: int) -> list[StreamId]:
        """One stream for each forward of a step: under PipeFusion that is one for each patch."""
        return [StreamId(Exchange.GUIDANCE, 0, Role.OUTPUT, self.parcels.moment.branch, self.neighbours.ranks[index])]


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    """Lay out latents: a row for each token, or for each channel of a picture."""
    rows = tensor.flatten(0, -3).flatten(1) if tensor.ndim > 3 else tensor.flatten(0, -2)
    return rows.contiguous()
