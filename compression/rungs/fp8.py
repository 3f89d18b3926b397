"""fp8: eight-bit floating point (e4m3) with one scale for each token: for rows of which a few values are very loud.

The format is e4m3 of Micikevicius et al., "FP8 formats for deep learning" (arXiv 2209.05433): no infinities, NaN in the
two codes whose low seven bits are ones.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from thinwire.compression.errors import PayloadError
from thinwire.compression.rungs.base import Rung
from thinwire.compression.rungs.memory import RungMemory
from thinwire.compression.rungs.per_token import row_scales
from thinwire.compression.rungs.side_information import TOP_BYTES, read_top, write_top
from thinwire.compression.scales import step_table

LARGEST_FP8 = 448.0
NOT_A_NUMBER = 0x7F


@dataclass(frozen=True, slots=True)
class Fp8Rung(Rung):
    """value = e4m3(code) * scale(row); the scale is the row's largest magnitude / 448, rounded up.

    Payload: top, one scale code per row, one byte per value.
    """

    name: str = "fp8"
    wire_id: int = 8
    millibits: int = 8_000
    distortion: float = 7.0e-4
    carries_key_frames: bool = True

    def payload_bytes(self, rows: int, channels: int, dtype: torch.dtype) -> int:
        """Return 4 + rows + rows x channels."""
        return TOP_BYTES + rows + rows * channels

    def encode(self, tensor_RC: Tensor, dtype: torch.dtype, memory: RungMemory) -> Tensor:
        """Scale and round to the nearest, half to even; raises NonFiniteError beyond 2**61."""
        scales = row_scales(tensor_RC, LARGEST_FP8, self.name)
        scaled_RC = (tensor_RC * scales.inverse_R[:, None]).clamp(-LARGEST_FP8, LARGEST_FP8)
        codes = scaled_RC.to(torch.float8_e4m3fn).view(torch.uint8).view(-1)
        return torch.cat([write_top(scales.top), scales.codes, codes])

    def decode(
        self, payload: Tensor, rows: int, channels: int, dtype: torch.dtype, memory: RungMemory
    ) -> tuple[Tensor, RungMemory]:
        """Widen and multiply; raises PayloadError for a top that is no scale or a code that is NaN."""
        top = read_top(payload)
        scale_R = top * step_table(payload.device)[payload[TOP_BYTES : TOP_BYTES + rows].long()]
        codes = payload[TOP_BYTES + rows :].clone()
        if bool((codes & NOT_A_NUMBER == NOT_A_NUMBER).any()):
            raise PayloadError("frame payload: expected e4m3 numbers, got NaN; ask for a key frame")
        values_RC = codes.view(torch.float8_e4m3fn).to(torch.float32).view(rows, channels)
        return values_RC * scale_R[:, None], memory


FP8 = Fp8Rung()
