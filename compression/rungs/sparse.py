"""N:M sparsity: of every M neighbouring channels the N loudest, in int4, and which ones they are.

The pattern is that of NVIDIA's sparse tensor cores (Mishra et al., arXiv 2104.08378), laid over residuals as in
CompactFusion (arXiv 2507.17511). What is left out stays in the residual, and feedback sends it later.
"""

from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor
from torch.nn.functional import pad

from thinwire.compression.errors import PayloadError
from thinwire.compression.packing import BITS_1, BITS_2, pack, packed_bytes, unpack
from thinwire.compression.rungs.base import Rung
from thinwire.compression.rungs.memory import RungMemory
from thinwire.compression.rungs.per_token import INT4

PATTERN_PLANES = (BITS_2, BITS_1)


@dataclass(frozen=True, slots=True)
class SparseRung(Rung):
    """`kept` of every `group` channels (at most 8 choices of them); the last group of a row is filled up with zeros.

    Payload: the kept values [rows, groups x kept] as an int4 payload, then a 3-bit pattern for each group: the index
    of the kept positions among all choices in lexicographic order.
    """

    name: str
    wire_id: int
    millibits: int
    distortion: float
    kept: int
    group: int
    carries_key_frames: bool = False

    def payload_bytes(self, rows: int, channels: int, dtype: torch.dtype) -> int:
        """Return the int4 payload of what is kept + packed patterns."""
        groups = self._groups(channels)
        return INT4.payload_bytes(rows, groups * self.kept, dtype) + packed_bytes(PATTERN_PLANES, rows * groups)

    def encode(self, tensor_RC: Tensor, dtype: torch.dtype, memory: RungMemory) -> Tensor:
        """Choose (the first of equals), gather, quantise; raises NonFiniteError as int4 does."""
        rows, channels = tensor_RC.shape
        groups = self._groups(channels)
        grouped_RGM = pad(tensor_RC, (0, groups * self.group - channels)).view(rows, groups, self.group)
        loudest_RGM = grouped_RGM.abs().sort(dim=2, descending=True, stable=True).indices
        places_RGN = loudest_RGM[:, :, : self.kept].sort(dim=2).values
        kept_RK = grouped_RGM.gather(2, places_RGN).view(rows, groups * self.kept)
        choices = self._choices(tensor_RC.device)
        pattern_of_mask = torch.zeros(1 << self.group, dtype=torch.int16, device=tensor_RC.device)
        pattern_of_mask[_masks(choices)] = torch.arange(len(choices), dtype=torch.int16, device=tensor_RC.device)
        patterns = pattern_of_mask[_masks(places_RGN)].view(-1)
        values = INT4.encode(kept_RK, dtype, memory)
        return torch.cat([values, pack(PATTERN_PLANES, patterns)])

    def decode(
        self, payload: Tensor, rows: int, channels: int, dtype: torch.dtype, memory: RungMemory
    ) -> tuple[Tensor, RungMemory]:
        """Scatter; raises PayloadError as int4 does, for a pattern that is none, or a value past the last channel."""
        groups = self._groups(channels)
        at = INT4.payload_bytes(rows, groups * self.kept, dtype)
        kept_RK, memory = INT4.decode(payload[:at], rows, groups * self.kept, dtype, memory)
        patterns = unpack(PATTERN_PLANES, payload[at:], rows * groups).long()
        choices = self._choices(payload.device)
        if bool((patterns >= len(choices)).any()):
            raise PayloadError(f"frame payload: expected patterns up to {len(choices) - 1}; ask for a key frame")
        places_RGN = choices[patterns].view(rows, groups, self.kept)
        dense_RGM = torch.zeros(rows, groups, self.group, dtype=torch.float32, device=payload.device)
        dense_RGM.scatter_(2, places_RGN, kept_RK.view(rows, groups, self.kept))
        dense_RC = dense_RGM.view(rows, groups * self.group)
        if bool(dense_RC[:, channels:].any()):
            raise PayloadError("frame payload: expected zeros past the last channel; ask for a key frame")
        return dense_RC[:, :channels].contiguous(), memory

    def _groups(self, channels: int) -> int:
        return -(-channels // self.group)

    def _choices(self, device: torch.device) -> Tensor:
        """[choices, kept] int64: all sets of positions, in lexicographic order."""
        return torch.tensor(list(combinations(range(self.group), self.kept)), dtype=torch.int64, device=device)


def _masks(places: Tensor) -> Tensor:
    """[..., kept] positions -> [...] int64, one bit for each."""
    return (1 << places).sum(dim=-1)


SPARSE_2_OF_4 = SparseRung(name="sparse2of4", wire_id=11, millibits=2_750, distortion=0.14, kept=2, group=4)
SPARSE_1_OF_8 = SparseRung(name="sparse1of8", wire_id=12, millibits=875, distortion=0.571, kept=1, group=8)
