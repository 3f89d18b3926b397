"""What transform rungs need of the Triton kernel, as functions of tensors: products with a basis, and trellis codes."""

from functools import cache

import torch
from torch import Tensor

from thinwire.compression.kernels import triton_transform_passes as passes
from thinwire.compression.kernels.triton_codes import EXACT, TILE
from thinwire.compression.transform import trellis

_ROWS_AT_ONCE = 16


def times(x_RC: Tensor, matrices_BDD: Tensor) -> Tensor:
    """[rows, blocks x D], [blocks, D, D] -> [rows, blocks x D] float32: each block's slice times its matrix."""
    blocks, size, _ = matrices_BDD.shape
    rows, channels = x_RC.shape
    out_RC = torch.empty(rows, channels, device=x_RC.device)
    padded = 1 << max(size - 1, 0).bit_length()
    passes.times_pass[(-(-rows // _ROWS_AT_ONCE), blocks)](
        x_RC, matrices_BDD, out_RC, rows, channels, SIZE=size, PADDED=padded, ROWS=_ROWS_AT_ONCE, **EXACT
    )
    return out_RC


def quantised(u_RC: Tensor, weight_R: Tensor, bits_C: Tensor) -> Tensor:
    """Do as trellis.quantised."""
    rows, coded = u_RC.shape
    codes_RC = torch.empty(rows, coded, dtype=torch.int16, device=u_RC.device)
    scratch = torch.empty(2, rows, coded, dtype=torch.int32, device=u_RC.device)
    grid = (-(-rows // trellis.BLOCK_ROWS), -(-coded // TILE))
    passes.trellis_pass[grid](
        u_RC.contiguous(),
        weight_R,
        bits_C,
        *_tables(u_RC.device),
        *scratch,
        codes_RC,
        rows,
        coded,
        BLOCK=trellis.BLOCK_ROWS,
        TILE=TILE,
        **EXACT,
    )
    return codes_RC


@cache
def _tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """Limits [bits, subset, 64], NaN where there is none, and levels [bits, 256]."""
    limits = torch.full((trellis.MAX_BITS + 1, trellis.SUBSETS, 1 << trellis.MAX_BITS - 1), torch.nan)
    levels = torch.zeros(trellis.MAX_BITS + 1, 2 << trellis.MAX_BITS)
    for bits in range(1, trellis.MAX_BITS + 1):
        levels[bits, : 2 << bits] = torch.tensor(trellis.levels(bits))
        for subset in range(trellis.SUBSETS):
            own = torch.tensor(trellis.thresholds(bits, subset))
            limits[bits, subset, : own.numel()] = own
    return limits.to(device), levels.to(device)
