"""The transform rungs' own passes of the Triton kernel: into and out of a basis, and the trellis's path of least error.

As in triton_passes: one rounded float32 operation at a time, in the reference's order. [R, C] rows, channels.
"""

# As in triton_passes: Triton reads the source of these functions.
# mypy: disable-error-code="no-untyped-def, misc, untyped-decorator"

import triton
import triton.language as tl


@triton.jit
def times_pass(x_RC, matrix_BDD, out_RC, rows, channels, SIZE: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr):
    """Multiply each block's slice by its matrix: products are added to 0 in the order of the slice's channels."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    block = tl.program_id(1)
    column = tl.arange(0, PADDED)
    total = tl.zeros((ROWS, PADDED), tl.float32)
    for k in range(SIZE):
        x = tl.load(x_RC + row * channels + block * SIZE + k, mask=row < rows, other=0.0)
        weight = tl.load(matrix_BDD + (block * SIZE + k) * SIZE + column, mask=column < SIZE, other=0.0)
        total = total + x[:, None] * weight[None, :]
    at = row[:, None] * channels + block * SIZE + column[None, :]
    tl.store(out_RC + at, total, mask=(row[:, None] < rows) & (column[None, :] < SIZE))


@triton.jit
def _nearest(u, weight, bits, limits_BSL, levels_BL, SUBSET: tl.constexpr):
    """Return the level of a subset that is nearest to u, and its weighted error; limits that are none are NaN."""
    index = tl.zeros_like(bits)
    for halving in tl.static_range(6):
        step = 32 >> halving
        limit = tl.load(limits_BSL + (bits * 4 + SUBSET) * 64 + index + step - 1)
        index = index + step * (u >= limit).to(tl.int32)
    lost = tl.load(levels_BL + bits * 256 + 4 * index + SUBSET) - u
    return index, lost * lost * weight


@triton.jit
def _reached(one, other, high, STATE: tl.constexpr):
    """Return the lesser cost, and the bits that tell where it came from."""
    chosen = other < one
    return tl.where(chosen, other, one), high | (chosen.to(tl.int32) << STATE)


@triton.jit
def _lesser(cost, least, state, STATE: tl.constexpr):
    less = cost < least
    return tl.where(less, cost, least), tl.where(less, STATE, state)


@triton.jit
def trellis_pass(
    u_RC, weight_R, bits_C, limits_BSL, levels_BL, nearest_RC, high_RC, codes_RC, rows, coded,
    BLOCK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Find the path of least error down a block of rows (see transform/trellis.py), then walk it back.

    nearest, high: [rows, coded] int32 of scratch: the nearest levels of four subsets, and whence states were reached.
    """
    column = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = column < coded
    bits = tl.load(bits_C + column, mask=inside, other=1).to(tl.int32)
    first = tl.program_id(0) * BLOCK
    last = tl.minimum(rows, first + BLOCK)
    cost_0 = tl.zeros((TILE,), tl.float32)
    cost_1 = cost_0 + float("inf")
    cost_2, cost_3, cost_4, cost_5, cost_6, cost_7 = cost_1, cost_1, cost_1, cost_1, cost_1, cost_1
    for row in range(first, last):
        at = row * coded + column
        u = tl.load(u_RC + at, mask=inside, other=0.0)
        weight = tl.load(weight_R + row)
        nearest_0, error_0 = _nearest(u, weight, bits, limits_BSL, levels_BL, 0)
        nearest_1, error_1 = _nearest(u, weight, bits, limits_BSL, levels_BL, 1)
        nearest_2, error_2 = _nearest(u, weight, bits, limits_BSL, levels_BL, 2)
        nearest_3, error_3 = _nearest(u, weight, bits, limits_BSL, levels_BL, 3)
        high = tl.zeros_like(bits)
        next_0, high = _reached(cost_0 + error_0, cost_4 + error_2, high, 0)
        next_1, high = _reached(cost_0 + error_2, cost_4 + error_0, high, 1)
        next_2, high = _reached(cost_1 + error_1, cost_5 + error_3, high, 2)
        next_3, high = _reached(cost_1 + error_3, cost_5 + error_1, high, 3)
        next_4, high = _reached(cost_2 + error_2, cost_6 + error_0, high, 4)
        next_5, high = _reached(cost_2 + error_0, cost_6 + error_2, high, 5)
        next_6, high = _reached(cost_3 + error_3, cost_7 + error_1, high, 6)
        next_7, high = _reached(cost_3 + error_1, cost_7 + error_3, high, 7)
        cost_0, cost_1, cost_2, cost_3 = next_0, next_1, next_2, next_3
        cost_4, cost_5, cost_6, cost_7 = next_4, next_5, next_6, next_7
        nearest = nearest_0 | (nearest_1 << 8) | (nearest_2 << 16) | (nearest_3 << 24)
        tl.store(nearest_RC + at, nearest, mask=inside)
        tl.store(high_RC + at, high, mask=inside)
    least, state = cost_0, tl.zeros_like(bits)
    least, state = _lesser(cost_1, least, state, 1)
    least, state = _lesser(cost_2, least, state, 2)
    least, state = _lesser(cost_3, least, state, 3)
    least, state = _lesser(cost_4, least, state, 4)
    least, state = _lesser(cost_5, least, state, 5)
    least, state = _lesser(cost_6, least, state, 6)
    least, state = _lesser(cost_7, least, state, 7)
    tl.debug_barrier()
    for back in range(last - first):
        at = (last - 1 - back) * coded + column
        high = tl.load(high_RC + at, mask=inside, other=0)
        nearest = tl.load(nearest_RC + at, mask=inside, other=0)
        branch = state & 1
        state = (state >> 1) + 4 * ((high >> state) & 1)
        subset = (state & 1) + 2 * (branch ^ ((state >> 1) & 1) ^ (state >> 2))
        code = 2 * ((nearest >> (8 * subset)) & 255) + branch
        tl.store(codes_RC + at, code.to(tl.int16), mask=inside)
