"""Sums in one fixed order, so that every kernel, SIMD width and device gets the same float32 bits.

A row is summed in 16 lanes (lane l takes channels l, l + 16, ... in order), then the lanes are folded in halves. A
channel is summed down the rows in blocks of 64, then over the blocks in order. Every addition is one IEEE 754
float32 addition; padding with zeros changes nothing.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

LANES = 16
BLOCK_ROWS = 64


def row_sums(x_RC: Tensor) -> Tensor:
    """Sum each row: [rows, channels] float32 -> [rows] float32."""
    rows, channels = x_RC.shape
    groups = -(-channels // LANES)
    lanes = pad(x_RC, (0, groups * LANES - channels)).view(rows, groups, LANES)
    total = torch.zeros(rows, LANES, dtype=torch.float32, device=x_RC.device)
    for group in range(groups):
        total = total + lanes[:, group]
    width = LANES
    while width > 1:
        width //= 2
        total = total[:, :width] + total[:, width:]
    return total[:, 0]


def column_sums(x_RC: Tensor) -> Tensor:
    """Sum each channel: [..., rows, channels] float32 -> [..., channels] float32."""
    *batch, rows, channels = x_RC.shape
    blocks = -(-rows // BLOCK_ROWS)
    padded = pad(x_RC, (0, 0, 0, blocks * BLOCK_ROWS - rows)).view(*batch, blocks, BLOCK_ROWS, channels)
    per_block = torch.zeros(*batch, blocks, channels, dtype=torch.float32, device=x_RC.device)
    for row in range(min(rows, BLOCK_ROWS)):
        per_block = per_block + padded[..., row, :]
    total = torch.zeros(*batch, channels, dtype=torch.float32, device=x_RC.device)
    for block in range(blocks):
        total = total + per_block[..., block, :]
    return total


def total_sum(values_N: Tensor) -> Tensor:
    """Sum a vector as one row: [n] float32 -> scalar float32."""
    return row_sums(values_N[None, :])[0]
