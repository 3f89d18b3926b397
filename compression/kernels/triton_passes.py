"""The passes of the Triton kernel: the eager reference's arithmetic, operation by operation, in few passes over memory.

Every product and every sum is one rounded float32 operation: launch with `enable_fp_fusion=False`, so that no compiler
makes a fused multiply-add of two. Sums run in the order of thinwire.compression.sums: a program owns a block of 64 rows
and walks them in order, or walks a row's groups of 16 lanes in order. Tensors: [R, C] rows, channels; planes of the
stream's state have a stride of their own. Triton (OpenAI, MIT licence): https://triton-lang.org.
"""

# Triton reads these functions' source: types would be constraints on tensors that it does not know.
# Its compiler takes neither conditional expressions over tensors nor `in`.
# ruff: noqa: SIM108, SIM109
# mypy: disable-error-code="no-untyped-def, misc, name-defined, untyped-decorator"

import triton
import triton.language as tl

BLOCK_ROWS = tl.constexpr(64)
LANES = tl.constexpr(16)
LARGEST_VALUE = tl.constexpr(2.0**60)
ROUNDER = tl.constexpr(12582912.0)  # 1.5 x 2**23: adding and subtracting it rounds |v| < 2**22 half to even

# What a pass over moments gathers, and what codes a value; numbers because Triton compiles one variant for each.
MAGNITUDE, SQUARE = tl.constexpr(0), tl.constexpr(1)
RAW, GIVEN, PER_TOKEN, RANK_ONE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)


@triton.jit
def _widened(bits):
    """bfloat16 as its 16 bits -> the same float32."""
    return (bits.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)


@triton.jit
def _predicted(base, first, second, delta_1, delta_2, at, channel, mask, ORDER: tl.constexpr):
    value = tl.load(base + at, mask=mask, other=0.0)
    if ORDER > 0:
        value = value + tl.load(first + channel, mask=mask, other=0.0) * _widened(
            tl.load(delta_1 + at, mask=mask, other=0)
        )
    if ORDER > 1:
        value = value + tl.load(second + channel, mask=mask, other=0.0) * _widened(
            tl.load(delta_2 + at, mask=mask, other=0)
        )
    return value


@triton.jit
def predict_pass(
    base, first, second, delta_1, delta_2, out_RC, channels, stride, ORDER: tl.constexpr, TILE: tl.constexpr
):  # fmt: skip
    """Write the prediction."""
    row = tl.program_id(0)
    channel = tl.program_id(1) * TILE + tl.arange(0, TILE)
    mask = channel < channels
    value = _predicted(base, first, second, delta_1, delta_2, row * stride + channel, channel, mask, ORDER)
    tl.store(out_RC + row * channels + channel, value, mask=mask)


@triton.jit
def residual_pass(
    x_RC, base, first, second, delta_1, delta_2, residual_RC, moments_BC, energy_BT, rows, channels, stride,
    ORDER: tl.constexpr, KEY_FRAME: tl.constexpr, MOMENT: tl.constexpr, BFLOAT16: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """Predict, subtract; sum moments down a block of rows, and the energy of the tensor itself in float64."""
    block, tile = tl.program_id(0), tl.program_id(1)
    channel = tile * TILE + tl.arange(0, TILE)
    inside = channel < channels
    moments = tl.zeros((TILE,), tl.float32)
    energy = tl.zeros((TILE,), tl.float64)
    for row in range(block * BLOCK_ROWS, tl.minimum(rows, (block + 1) * BLOCK_ROWS)):
        value = tl.load(x_RC + row * channels + channel, mask=inside, other=0)
        value = _widened(value) if BFLOAT16 else value.to(tl.float32)
        residual = value
        if not KEY_FRAME:
            residual = value - _predicted(
                base, first, second, delta_1, delta_2, row * stride + channel, channel, inside, ORDER
            )
        tl.store(residual_RC + row * channels + channel, residual, mask=inside)
        if MOMENT == SQUARE:
            moments = moments + residual * residual
        else:
            moments = moments + tl.abs(residual)
        wide = value.to(tl.float64)
        energy = energy + wide * wide
    tl.store(moments_BC + block * channels + channel, moments, mask=inside)
    tl.store(energy_BT + block * tl.num_programs(1) + tile, tl.sum(energy, axis=0))


@triton.jit
def fold_pass(parts_BC, out_C, blocks, channels, TILE: tl.constexpr):
    """Add blocks in order."""
    channel = tl.program_id(0) * TILE + tl.arange(0, TILE)
    mask = channel < channels
    total = tl.zeros((TILE,), tl.float32)
    for block in range(blocks):
        total = total + tl.load(parts_BC + block * channels + channel, mask=mask, other=0.0)
    tl.store(out_C + channel, total, mask=mask)


@triton.jit
def row_pass(residual_RC, sums_R, largest_R, channels, groups, MOMENT: tl.constexpr):
    """Sum a row's moments in 16 lanes that are folded in halves, and find its largest magnitude."""
    row = tl.program_id(0)
    lane = tl.arange(0, LANES)
    total = tl.zeros((LANES,), tl.float32)
    largest = tl.zeros((LANES,), tl.float32)
    for group in range(groups):
        channel = group * LANES + lane
        residual = tl.load(residual_RC + row * channels + channel, mask=channel < channels, other=0.0)
        if MOMENT == SQUARE:
            total = total + residual * residual
        else:
            total = total + tl.abs(residual)
        largest = tl.maximum(largest, tl.abs(residual), propagate_nan=tl.PropagateNan.ALL)
    # Sums of two terms each: their order cannot matter.
    total = tl.sum(tl.reshape(total, (2, 8)), axis=0)
    total = tl.sum(tl.reshape(total, (2, 4)), axis=0)
    total = tl.sum(tl.reshape(total, (2, 2)), axis=0)
    tl.store(sums_R + row, tl.sum(total, axis=0))
    tl.store(largest_R + row, tl.max(largest, axis=0))


@triton.jit
def _rounded_bfloat16(value):
    """float32, finite -> the nearest bfloat16, ties to even, as its 16 bits."""
    bits = value.to(tl.uint32, bitcast=True)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).to(tl.int16)


@triton.jit
def absorb_pass(
    source_RC, codes_N, thresholds, levels, row_scale_R, row_inverse_R, step_C, step_inverse_C,
    base, first, second, delta_1, delta_2, oldest, out_RC, sums_3BC, lost_BT, rows, channels, stride,
    KIND: tl.constexpr, ENCODE: tl.constexpr, COUNT: tl.constexpr, KEY_FRAME: tl.constexpr, ORDER: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """Code (or read codes), reconstruct, move base and deltas on, sum the products of deltas down a block of rows.

    source: the residual, the raw tensor or decoded values, by KIND. oldest: the delta that the new one replaces.
    """
    block, tile = tl.program_id(0), tl.program_id(1)
    channel = tile * TILE + tl.arange(0, TILE)
    inside = channel < channels
    same = tl.zeros((TILE,), tl.float32)
    following = tl.zeros((TILE,), tl.float32)
    further = tl.zeros((TILE,), tl.float32)
    lost = tl.zeros((TILE,), tl.float64)
    if KIND == RANK_ONE:
        step = tl.load(step_C + channel, mask=inside, other=0.0)
        step_inverse = tl.load(step_inverse_C + channel, mask=inside, other=0.0)
    for row in range(block * BLOCK_ROWS, tl.minimum(rows, (block + 1) * BLOCK_ROWS)):
        at = row * channels + channel
        here = row * stride + channel
        source = tl.zeros((TILE,), tl.float32)
        if ENCODE or KIND == RAW or KIND == GIVEN:
            source = tl.load(source_RC + at, mask=inside, other=0.0)
        coded = source
        if KIND == PER_TOKEN:
            scale = tl.load(row_scale_R + row)
            if ENCODE:
                steps = source * tl.load(row_inverse_R + row)
                steps = (steps + ROUNDER) - ROUNDER
                steps = tl.minimum(tl.maximum(steps, -1.0 * COUNT), 1.0 * COUNT)
                code = steps.to(tl.int32) + COUNT
                tl.store(codes_N + at, code.to(tl.uint8), mask=inside)
            else:
                code = tl.load(codes_N + at, mask=inside, other=0).to(tl.int32)
            coded = (code - COUNT).to(tl.float32) * scale
        if KIND == RANK_ONE:
            scale = tl.load(row_scale_R + row)
            if ENCODE:
                scaled = source * step_inverse
                code = tl.zeros((TILE,), tl.int32)
                for k in tl.static_range(COUNT - 1):
                    code = code + (scaled >= tl.load(thresholds + k) * scale).to(tl.int32)
                tl.store(codes_N + at, code.to(tl.uint8), mask=inside)
            else:
                code = tl.load(codes_N + at, mask=inside, other=0).to(tl.int32)
            coded = (tl.load(levels + code) * scale) * step
        if KIND == RAW:
            value = tl.where(tl.abs(source) <= LARGEST_VALUE, source, 0.0)
        elif KEY_FRAME:
            value = 0.0 + coded
        else:
            value = _predicted(base, first, second, delta_1, delta_2, here, channel, inside, ORDER) + coded
        if ENCODE and KIND != RAW and KIND != GIVEN:
            error = (source - coded).to(tl.float64)
            lost = lost + tl.where(inside, error * error, 0.0)
        if ORDER > 0 and not KEY_FRAME:
            delta = tl.where(inside, value - tl.load(base + here, mask=inside, other=0.0), 0.0)
            same = same + delta * delta
            following = following + delta * _widened(tl.load(delta_1 + here, mask=inside, other=0))
            if ORDER > 1:
                further = further + delta * _widened(tl.load(delta_2 + here, mask=inside, other=0))
            tl.store(oldest + here, _rounded_bfloat16(delta), mask=inside)
        tl.store(base + here, value, mask=inside)
        tl.store(out_RC + at, value, mask=inside)
    blocks = tl.num_programs(0)
    tl.store(sums_3BC + block * channels + channel, same, mask=inside)
    tl.store(sums_3BC + (blocks + block) * channels + channel, following, mask=inside)
    tl.store(sums_3BC + (2 * blocks + block) * channels + channel, further, mask=inside)
    tl.store(lost_BT + block * tl.num_programs(1) + tile, tl.sum(lost, axis=0))


@triton.jit
def pack_pass(codes_N, packed_S, count, stride, shift, BASE: tl.constexpr, PER_BYTE: tl.constexpr, TILE: tl.constexpr):
    """Pack a plane: byte k holds codes k, k + stride, ...; `shift` codes' lower bits belong to another plane."""
    byte = tl.program_id(0) * TILE + tl.arange(0, TILE)
    packed = tl.zeros((TILE,), tl.int32)
    for place in tl.static_range(PER_BYTE):
        at = byte + (PER_BYTE - 1 - place) * stride
        code = tl.load(codes_N + at, mask=(byte < stride) & (at < count), other=0).to(tl.int32)
        packed = packed * BASE + (code >> shift) % BASE
    tl.store(packed_S + byte, packed.to(tl.uint8), mask=byte < stride)


@triton.jit
def unpack_pass(
    packed_S, codes_N, wrong_P, count, stride, shift, BASE: tl.constexpr, PER_BYTE: tl.constexpr, TILE: tl.constexpr
):  # fmt: skip
    """Undo `pack_pass`, adding to what another plane left in the codes; count what no encoder writes."""
    byte = tl.program_id(0) * TILE + tl.arange(0, TILE)
    rest = tl.load(packed_S + byte, mask=byte < stride, other=0).to(tl.int32)
    wrong = tl.zeros((TILE,), tl.int32)
    for place in tl.static_range(PER_BYTE):
        at = byte + place * stride
        digit = rest % BASE
        rest = rest // BASE
        mask = (byte < stride) & (at < count)
        wrong = wrong + tl.where(mask, 0, digit)
        before = tl.load(codes_N + at, mask=mask & (shift > 0), other=0).to(tl.int32)
        tl.store(codes_N + at, (before + (digit << shift)).to(tl.uint8), mask=mask)
    tl.store(wrong_P + tl.program_id(0), tl.sum(wrong + rest, axis=0))
