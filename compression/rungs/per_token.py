"""int8 and int4: symmetric integers with one scale for each token (row)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from thinwire.compression.errors import NonFiniteError, PayloadError
from thinwire.compression.packing import BITS_4, BITS_8, Plane, pack, packed_bytes, unpack
from thinwire.compression.rungs.base import Rung
from thinwire.compression.rungs.memory import RungMemory
from thinwire.compression.rungs.side_information import TOP_BYTES, read_top, write_top
from thinwire.compression.scales import SMALLEST_TOP, step_table, upward_codes

LARGEST = 2.0**61


@dataclass(frozen=True, slots=True)
class RowScales:
    """top: scalar. codes: [rows] uint8. inverse_R: 1 / scale of each row, 0 where the scale is 0; float32."""

    top: Tensor
    codes: Tensor
    inverse_R: Tensor


def row_scales(tensor_RC: Tensor, levels: float, name: str) -> RowScales:
    """Return scales that bring each row within -levels ... levels, a sixteenth of an octave at most too large.

    Raises NonFiniteError beyond 2**61, in the name of a rung.
    """
    return scales_of(largest_of_rows(tensor_RC), levels, name)


def largest_of_rows(tensor_RC: Tensor) -> Tensor:
    """Return each row's largest magnitude, 0 for rows of nothing."""
    return tensor_RC.abs().amax(dim=1) if tensor_RC.numel() else tensor_RC.new_zeros(tensor_RC.shape[0])


def scales_of(largest_R: Tensor, levels: float, name: str) -> RowScales:
    """Do as `row_scales`, from the rows' largest magnitudes."""
    largest = largest_R.max() if largest_R.numel() else largest_R.new_zeros(())
    if not bool(largest <= LARGEST):
        raise NonFiniteError(f"{name}: expected finite values up to 2**61, got {float(largest)}; send it raw")
    top = largest / levels
    if not bool(top > SMALLEST_TOP):
        top = torch.zeros_like(top)
        codes = torch.zeros_like(largest_R, dtype=torch.uint8)
    else:
        codes = upward_codes(largest_R / largest)
    scale_R = top * step_table(largest_R.device)[codes.long()]
    inverse_R = torch.where(scale_R > 0, torch.ones_like(scale_R) / scale_R, torch.zeros_like(scale_R))
    return RowScales(top, codes, inverse_R)


@dataclass(frozen=True, slots=True)
class PerTokenRung(Rung):
    """value = (code - levels) * scale(row), codes 0 to 2 * levels, rounded half to even.

    The scale is the row's largest magnitude / levels, rounded up to a sixteenth of an octave (see scales).
    Payload: top, one scale code per row, packed codes.
    """

    name: str
    wire_id: int
    millibits: int
    distortion: float
    levels: int
    plane: Plane
    carries_key_frames: bool = True

    def payload_bytes(self, rows: int, channels: int, dtype: torch.dtype) -> int:
        """Return 4 + rows + packed codes."""
        return TOP_BYTES + rows + packed_bytes((self.plane,), rows * channels)

    def encode(self, tensor_RC: Tensor, dtype: torch.dtype, memory: RungMemory) -> Tensor:
        """Quantise row by row; raises NonFiniteError beyond 2**61."""
        scales = row_scales(tensor_RC, self.levels, self.name)
        steps_RC = (tensor_RC * scales.inverse_R[:, None]).round().clamp(-self.levels, self.levels)
        codes = (steps_RC + self.levels).to(torch.int16).view(-1)
        return torch.cat([write_top(scales.top), scales.codes, pack((self.plane,), codes)])

    def decode(
        self, payload: Tensor, rows: int, channels: int, dtype: torch.dtype, memory: RungMemory
    ) -> tuple[Tensor, RungMemory]:
        """Multiply out; raises PayloadError for a top that is no scale or a code beyond the levels."""
        top = read_top(payload)
        scale_R = top * step_table(payload.device)[payload[TOP_BYTES : TOP_BYTES + rows].long()]
        codes = unpack((self.plane,), payload[TOP_BYTES + rows :], rows * channels)
        if codes.numel() and int(codes.max()) > 2 * self.levels:
            raise PayloadError(f"frame payload: expected codes up to {2 * self.levels}; ask for a key frame")
        return (codes - self.levels).to(torch.float32).view(rows, channels) * scale_R[:, None], memory


INT8 = PerTokenRung(name="int8", wire_id=1, millibits=8_000, distortion=4.2e-5, levels=127, plane=BITS_8)
INT4 = PerTokenRung(name="int4", wire_id=2, millibits=4_000, distortion=1.35e-2, levels=7, plane=BITS_4)
