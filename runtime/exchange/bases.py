"""Which basis a stream is coded in: calibration knows whole layers, a stream carries the heads of one Ulysses rank."""

from dataclasses import dataclass, field

import torch

from thinwire.compression import Basis, Calibration, Exchange, Place, Role, StreamId
from thinwire.runtime.exchange.floors import ATTENTION


@dataclass(frozen=True, slots=True)
class Bases:
    """The bases of a calibrated model, as this rank's streams need them.

    ulysses_ranks: this rank's Ulysses group, in order; itself alone without one.
    """

    calibration: Calibration
    rank: int
    ulysses_ranks: tuple[int, ...]
    device: torch.device
    made: dict[tuple[Place, int], Basis] = field(default_factory=dict)
    """By (layer, role) and place in the Ulysses group: streams of one kind share a basis."""

    def of(self, stream: StreamId) -> Basis | None:
        """Return the basis of a stream's heads; None for what is not attention's, which no calibration knows."""
        if stream.exchange not in ATTENTION:
            return None
        holder = {
            Exchange.ULYSSES_INPUT: stream.destination,
            Exchange.ULYSSES_OUTPUT: stream.source,
        }.get(stream.exchange, self.rank)
        return self._of_group(stream.layer, stream.role, self.ulysses_ranks.index(holder))

    def example(self, role: Role) -> Basis:
        """Return one to measure with: that of the first layer."""
        return self._of_group(0, role, 0)

    def _of_group(self, layer: int, role: Role, index: int) -> Basis:
        place = (layer, role)
        basis = self.made.get((place, index))
        if basis is None:
            channels = self.calibration.bases[place][0].channels // len(self.ulysses_ranks)
            basis = self.calibration.basis(place, index * channels, channels).on(self.device)
            self.made[place, index] = basis
        return basis
