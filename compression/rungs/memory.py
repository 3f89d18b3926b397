"""What a stream's rungs remember between frames, and the basis it was opened with: equal on both ends."""

from dataclasses import dataclass

import torch
from torch import Tensor

from thinwire.compression.transform.basis import Basis


@dataclass(frozen=True, slots=True)
class RungMemory:
    """component_codes: [channels] int16, token_codes: [rows] int16, the last amplitudes; empty without a basis.

    right_factor: [channels, ranks] float32, of the last low-rank frame; None before the first.
    """

    basis: Basis | None
    component_codes: Tensor
    token_codes: Tensor
    right_factor: Tensor | None = None

    @classmethod
    def fresh(cls, basis: Basis | None, rows: int, device: torch.device) -> "RungMemory":
        """What is known before the first frame."""
        if basis is None:
            nothing = torch.zeros(0, dtype=torch.int16, device=device)
            return cls(None, nothing, nothing)
        return cls(basis, basis.codes, torch.zeros(rows, dtype=torch.int16, device=device))
