"""1 bit to 3 bits: a few levels times a scale that is the product of one factor per row and one per channel.

The rank-1 scale is CompactFusion's (arXiv 2507.17511, section 4): mean magnitudes for 1 bit. For the others it is the
root mean square with the levels of Lloyd (1982) and Max (1960) for the unit normal distribution.
"""

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from thinwire.compression.errors import NonFiniteError
from thinwire.compression.packing import BITS_1, BITS_2, TRITS, Plane, pack, packed_bytes, unpack
from thinwire.compression.rungs.base import Rung
from thinwire.compression.rungs.memory import RungMemory
from thinwire.compression.rungs.side_information import TOP_BYTES, read_top, write_top
from thinwire.compression.scales import inverse_step_table, nearest_codes, step_table
from thinwire.compression.sums import column_sums, row_sums, total_sum

# A smaller mean (of magnitudes or of squares) counts as nothing: squares below it would lose their bits.
SMALLEST_MEAN = 2.0**-90


class Moment(Enum):
    """What the rank-1 scale is made of, and the largest total of it that a rung carries."""

    MEAN_MAGNITUDE = 2.0**80
    ROOT_MEAN_SQUARE = 2.0**122


@dataclass(frozen=True, slots=True)
class RankOneRung(Rung):
    """value = (level[code] * row scale) * channel step; a code counts the thresholds that value / scale reaches.

    Payload: top, one scale code per row, one step code per channel, packed codes.
    """

    name: str
    wire_id: int
    millibits: int
    distortion: float
    moment: Moment
    thresholds: tuple[float, ...]
    levels: tuple[float, ...]
    planes: tuple[Plane, ...]
    carries_key_frames: bool = False

    def payload_bytes(self, rows: int, channels: int, dtype: torch.dtype) -> int:
        """Return 4 + rows + channels + packed codes."""
        return TOP_BYTES + rows + channels + packed_bytes(self.planes, rows * channels)

    def scales(self, row_R: Tensor, column_C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return top, row codes and channel codes from the sums of moments over each row and each channel.

        Raises NonFiniteError beyond 2**60.
        """
        rows, channels = row_R.numel(), column_C.numel()
        squared = self.moment is Moment.ROOT_MEAN_SQUARE
        total = total_sum(row_R)
        if not bool(total <= self.moment.value):
            raise NonFiniteError(f"{self.name}: expected finite values up to 2**60; send the tensor raw")
        if not rows * channels or not bool(total / (rows * channels) > SMALLEST_MEAN):
            none_R, none_C = torch.zeros_like(row_R, dtype=torch.uint8), torch.zeros_like(column_C, dtype=torch.uint8)
            return torch.zeros_like(total), none_R, none_C
        mean, row_R, column_C = total / (rows * channels), row_R / channels, column_C / rows
        largest_row, largest_column = row_R.max(), column_C.max()
        top = largest_row * (largest_column / mean)
        if squared:
            top = top.double().sqrt().to(torch.float32)
        row_codes = nearest_codes(row_R / largest_row, squared=squared)
        return top, row_codes, nearest_codes(column_C / largest_column, squared=squared)

    def encode(self, tensor_RC: Tensor, dtype: torch.dtype, memory: RungMemory) -> Tensor:
        """Scale, compare, pack; raises NonFiniteError beyond 2**60."""
        moments_RC = tensor_RC * tensor_RC if self.moment is Moment.ROOT_MEAN_SQUARE else tensor_RC.abs()
        top, row_codes, column_codes = self.scales(row_sums(moments_RC), column_sums(moments_RC))
        row_scale_R = top * step_table(tensor_RC.device)[row_codes.long()]
        scaled_RC = tensor_RC * inverse_step_table(tensor_RC.device)[column_codes.long()]
        codes_RC = torch.zeros_like(scaled_RC, dtype=torch.int16)
        for threshold in torch.tensor(self.thresholds, dtype=torch.float32, device=tensor_RC.device):
            codes_RC += scaled_RC >= (threshold * row_scale_R)[:, None]
        return torch.cat([write_top(top), row_codes, column_codes, pack(self.planes, codes_RC.view(-1))])

    def decode(
        self, payload: Tensor, rows: int, channels: int, dtype: torch.dtype, memory: RungMemory
    ) -> tuple[Tensor, RungMemory]:
        """Look up and multiply; raises PayloadError for a top that is no scale or codes that cannot be."""
        steps = step_table(payload.device)
        row_end = TOP_BYTES + rows
        row_scale_R = read_top(payload) * steps[payload[TOP_BYTES:row_end].long()]
        step_C = steps[payload[row_end : row_end + channels].long()]
        codes = unpack(self.planes, payload[row_end + channels :], rows * channels).view(rows, channels)
        levels = torch.tensor(self.levels, dtype=torch.float32, device=payload.device)
        return levels[codes.long()] * row_scale_R[:, None] * step_C, memory


BITS3 = RankOneRung(
    name="bits3",
    wire_id=3,
    millibits=3_000,
    distortion=0.03454,
    moment=Moment.ROOT_MEAN_SQUARE,
    thresholds=(-1.748, -1.050, -0.5006, 0.0, 0.5006, 1.050, 1.748),
    levels=(-2.152, -1.344, -0.7560, -0.2451, 0.2451, 0.7560, 1.344, 2.152),
    planes=(BITS_2, BITS_1),
)
BITS2 = RankOneRung(
    name="bits2",
    wire_id=4,
    millibits=2_000,
    distortion=0.1175,
    moment=Moment.ROOT_MEAN_SQUARE,
    thresholds=(-0.9816, 0.0, 0.9816),
    levels=(-1.510, -0.4528, 0.4528, 1.510),
    planes=(BITS_2,),
)
TERNARY = RankOneRung(
    name="ternary",
    wire_id=5,
    millibits=1_600,
    distortion=0.1902,
    moment=Moment.ROOT_MEAN_SQUARE,
    thresholds=(-0.6120, 0.6120),
    levels=(-1.2240, 0.0, 1.2240),
    planes=(TRITS,),
)
BITS1 = RankOneRung(
    name="bits1",
    wire_id=6,
    millibits=1_000,
    distortion=0.3634,
    moment=Moment.MEAN_MAGNITUDE,
    thresholds=(0.0,),
    levels=(-1.0, 1.0),
    planes=(BITS_1,),
)
