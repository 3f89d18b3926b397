"""A second decoder, written from docs/wire-format.md alone in numpy float32, must see what the first one sees."""

import struct
import zlib
from itertools import combinations

import numpy as np
import pytest
import torch

from tests.compression.cases import STREAM, drifting, kernel_named, pair
from tests.compression.transform.test_transform_rungs import activations, calibrated
from thinwire.compression import RAW, RUNGS, BaseFormat, StreamDecoder, StreamEncoder, TransformRung
from thinwire.compression.transform.trellis_levels import POSITIVE_LEVELS

F = np.float32
STEP = np.array([0.0] + [2.0 ** ((code - 255) / 16) for code in range(1, 256)]).astype(F)
LEVELS = {
    3: [-2.152, -1.344, -0.7560, -0.2451, 0.2451, 0.7560, 1.344, 2.152],
    4: [-1.510, -0.4528, 0.4528, 1.510],
    5: [-1.2240, 0, 1.2240],
    6: [-1, 1],
}
PLANES = {1: [(256, 1)], 2: [(16, 2)], 3: [(4, 4), (2, 8)], 4: [(4, 4)], 5: [(3, 5)], 6: [(2, 8)]}
RANKS = {(9, 167): 8, (9, 333): 16, (9, 667): 32, (10, 42): 8, (10, 83): 16, (10, 167): 32}
NUMPY = {torch.float32: np.float32, torch.float16: np.float16}


class SecondDecoder:
    def __init__(self, rows, channels, order, base_format, dtype):
        self.rows, self.channels, self.order, self.base_format = rows, channels, order, base_format
        self.dtype = dtype
        self.base = np.zeros((rows, channels), F)
        self.forget()

    def forget(self):
        self.deltas = [np.zeros((self.rows, self.channels), F) for _ in range(self.order)]
        self.sums = {name: np.zeros(self.channels, F) for name in ("E0", "E1", "E2", "F0", "F1", "G0")}

    def codes(self, planes, data, shape):
        count = shape[0] * shape[1]
        total, weight = np.zeros(count, np.int64), 1
        for base, per_byte in planes:
            stride = -(-count // per_byte)
            plane, data = np.frombuffer(data[:stride], np.uint8).astype(np.int64), data[stride:]
            digits = np.concatenate([plane // base**place % base for place in range(per_byte)])
            total, weight = total + digits[:count] * weight, weight * base
        return total.reshape(shape)

    def low_rank(self, rank, int4_factors, payload):
        r = min(rank, self.rows, self.channels)
        scale = F(struct.unpack("<f", payload[:4])[0]) * STEP[np.frombuffer(payload[4 : 4 + r], np.uint8)]
        rest, factors = payload[4 + r :], []
        for length in (self.rows, self.channels):
            size = -(-length * r // 2) if int4_factors else 2 * length * r
            data, rest = rest[:size], rest[size:]
            if int4_factors:
                factors.append((self.codes([(16, 2)], data, (length, r)) - 7).astype(F))
            else:
                factors.append(np.frombuffer(data, np.float16).astype(F).reshape(length, r))
        left, right = factors
        total = np.zeros((self.rows, self.channels), F)
        for k in range(r):
            total = total + (left[:, k, None] * scale[k]) * right[None, :, k]
        return total

    def sparse(self, kept, group, payload):
        groups = -(-self.channels // group)
        at = 4 + self.rows + -(-self.rows * groups * kept // 2)
        values = self.per_token(payload[:at], [(16, 2)], 7, groups * kept)
        patterns = self.codes([(4, 4), (2, 8)], payload[at:], (self.rows, groups))
        dense, sets = np.zeros((self.rows, groups * group), F), list(combinations(range(group), kept))
        for row, number in np.ndindex(self.rows, groups):
            for index, place in enumerate(sets[patterns[row, number]]):
                dense[row, number * group + place] = values[row, number * kept + index]
        return dense[:, : self.channels]

    def fp8(self, payload):
        rows = F(struct.unpack("<f", payload[:4])[0]) * STEP[np.frombuffer(payload[4 : 4 + self.rows], np.uint8)]
        code = np.frombuffer(payload[4 + self.rows :], np.uint8).astype(np.int64).reshape(self.rows, self.channels)
        exponent, mantissa = code >> 3 & 15, code & 7
        normal = (8 + mantissa) * 2.0 ** (exponent - 10)
        value = np.where(exponent == 0, mantissa * 2.0**-9, normal) * np.where(code >> 7, -1.0, 1.0)
        return value.astype(F) * rows[:, None]

    def per_token(self, payload, planes, levels, channels):
        (top,) = struct.unpack("<f", payload[:4])
        rows = F(top) * STEP[np.frombuffer(payload[4 : 4 + self.rows], np.uint8)][:, None]
        codes = self.codes(planes, payload[4 + self.rows :], (self.rows, channels))
        return (codes - levels).astype(F) * rows

    def values(self, rung, rate, payload):
        if rung in (1, 2):
            return self.per_token(payload, PLANES[rung], 127 if rung == 1 else 7, self.channels)
        if rung == 8:
            return self.fp8(payload)
        if rung in (9, 10):
            return self.low_rank(RANKS[rung, rate], rung == 10, payload)
        if rung in (11, 12):
            return self.sparse(*((2, 4) if rung == 11 else (1, 8)), payload)
        (top,) = struct.unpack("<f", payload[:4])
        rows = F(top) * STEP[np.frombuffer(payload[4 : 4 + self.rows], np.uint8)][:, None]
        rest = payload[4 + self.rows :]
        shape = (self.rows, self.channels)
        channels = STEP[np.frombuffer(rest[: self.channels], np.uint8)]
        return (np.array(LEVELS[rung], F)[self.codes(PLANES[rung], rest[self.channels :], shape)] * rows) * channels

    def prediction(self):
        s, one = self.sums, F(1)
        with np.errstate(all="ignore"):
            if self.order == 0:
                return self.base
            if self.order == 1:
                usable = (s["E1"] > F(2.0**-100)) & (s["E1"] <= F(2.0**122))
                a = np.where(usable, np.clip(s["F0"] / s["E1"], F(0), one), F(0)) * F(0.9)
                return self.base + a * self.deltas[0]
            t = s["E1"] + s["E2"]
            usable = (t > F(2.0**-100)) & (t <= F(2.0**122))
            u, w, v = s["E1"] / t + F(1 / 64), s["E2"] / t + F(1 / 64), s["F1"] / t
            f, g = s["F0"] / t, s["G0"] / t
            d = u * w - v * v
            a = np.clip(np.where(usable, (f * w - g * v) / d, F(0)), F(-2), F(2))
            c = np.clip(np.where(usable, (g * u - f * v) / d, F(0)), F(-1), F(1))
            return (self.base + a * self.deltas[0]) + c * self.deltas[1]

    def inner(self, left, right):
        total = np.zeros(self.channels, F)
        for first in range(0, self.rows, 64):
            block = np.zeros(self.channels, F)
            for row in range(first, min(first + 64, self.rows)):
                block = block + left[row] * right[row]
            total = total + block
        return total

    def kept(self, x, *, delta=False):
        if self.base_format is BaseFormat.INT8:
            largest = np.abs(x).max(1)
            usable = largest > 2.0**-100
            divisor = np.where(usable, largest, F(1))
            inverse, scale = np.where(usable, F(127) / divisor, F(0)), np.where(usable, largest / F(127), F(0))
            return np.rint(x * inverse[:, None]).astype(F) * scale[:, None]
        if delta:
            bits = x.view(np.uint32).astype(np.uint64)
            return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(F)
        return x

    def decode(self, frame):
        magic, version, form, rung, _, rate, *_, length, checksum = struct.unpack("<2sBBBBHIIIIHHHBBII", frame[:40])
        payload = frame[40:]
        assert (magic, version, length, checksum) == (b"tw", 2, len(payload), zlib.crc32(payload))
        key_frame = form >> 3 & 1
        if rung == 0:
            x = np.frombuffer(payload, NUMPY[self.dtype]).reshape(self.rows, self.channels).astype(F)
        else:
            predicted = np.zeros_like(self.base) if key_frame else self.prediction()
            x = predicted + self.values(rung, rate, payload)
        if key_frame:
            self.forget()
        elif self.order:
            delta, s, decay = x - self.base, self.sums, F(0.5 if self.order == 1 else 0.8)
            s["E2"], s["E1"], s["F1"] = s["E1"], s["E0"], s["F0"]
            s["E0"] = s["E0"] * decay + self.inner(delta, delta)
            s["F0"] = s["F0"] * decay + self.inner(delta, self.deltas[0])
            if self.order == 2:
                s["G0"] = s["G0"] * decay + self.inner(delta, self.deltas[1])
            self.deltas = [self.kept(delta, delta=True), *self.deltas][: self.order]
        self.base = self.kept(x)
        return x.astype(NUMPY[self.dtype])


@pytest.mark.parametrize("dtype", NUMPY)
@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("form", BaseFormat)
def test_a_decoder_written_from_the_page_alone_sees_the_same_bits(dtype, order, form):
    rows, channels = 71, 19
    encoder, decoder = pair(rows, channels, dtype, order=order, base_format=form)
    second = SecondDecoder(rows, channels, order, form, dtype)
    for step, x in enumerate(drifting(rows, channels, dtype, 3 * len(RUNGS))):
        rung = RAW if step == 0 else RUNGS[step * 3 % len(RUNGS)]
        key_frame = step == 0 or (step in (13, 23) and rung.carries_key_frames)
        said = {"rung": rung, "epoch": 0, "step": step, "key_frame": key_frame}
        frame = encoder.encode(x, **said).frame
        arrived = decoder.decode(frame, **said)
        assert np.array_equal(second.decode(bytes(frame.numpy())), arrived.numpy()), (STREAM, rung.name, step)


GAIN = (-8, -35, -64, -94, -124, -154, -185)
TRELLIS = [np.array([*(-level for level in reversed(row)), *row], F) for row in POSITIVE_LEVELS]
AMP = np.array([2.0 ** (quarter / 4) for quarter in range(4)]).astype(F)


def amplitude(codes):
    return AMP[codes % 4] * np.ldexp(F(1), codes // 4).astype(F)


def rice_codes(bits, at, count, k):
    said = []
    for _ in range(count):
        ones = 0
        while bits[at + ones]:
            ones += 1
        low = sum(int(bits[at + ones + 1 + place]) << place for place in range(k))
        at += ones + 1 + k
        unsigned = ones << k | low
        said.append(-(unsigned + 1) // 2 if unsigned % 2 else unsigned // 2)
    return np.array(said), at


def second_transform(payload, rows, basis, component, token):
    """Values of a transform payload, and the codes that the next one starts from."""
    heads, size, _ = basis.inverse.shape
    channels = heads * size
    tag, common, k_component, k_token = struct.unpack("<HhBB", payload[:6])
    assert tag == basis.tag
    bits = np.unpackbits(np.frombuffer(payload[6:], np.uint8), bitorder="little")
    own, at = rice_codes(bits, 0, channels, k_component)
    changed, at = rice_codes(bits, at, rows, k_token)
    component, token = np.clip(component + common + own, -240, 240), token + changed
    rest = payload[6 + -(-at // 8) :]
    pairs = sorted((-(8 * component[c] + GAIN[b]), b, c) for b in range(7) for c in range(channels))
    counts, granted = [0] * 7, np.zeros(channels, int)
    for _, b, c in pairs:
        counts[b] += 1
        if sum(-(-rows * count // 8) for count in counts) > len(rest):
            break
        granted[c] += 1
    order = sorted((c for c in range(channels) if granted[c]), key=lambda c: (-granted[c], c))
    codes = np.zeros((rows, len(order)), int)
    for b in range(7):
        width = sum(granted[c] > b for c in order)
        count = rows * width
        stride = -(-count // 8)
        plane = np.frombuffer(rest[:stride], np.uint8).astype(int)
        rest = rest[stride:]
        flat = np.concatenate([plane >> place & 1 for place in range(8)])[:count] if count else np.zeros(0, int)
        codes[:, :width] |= flat.reshape(rows, width) << b
    assert not any(rest)
    y = np.zeros((rows, channels), F)
    for column, c in enumerate(order):
        for row in range(rows):
            back = [codes[row - d, column] if row % 256 >= d else 0 for d in range(4)]
            index = 4 * (back[0] >> 1) + (back[1] & 1) + 2 * ((back[0] ^ back[2] ^ back[3]) & 1)
            y[row, c] = TRELLIS[granted[c]][index] * amplitude(token[row] + component[c])
    inverse, values = basis.inverse.numpy(), np.zeros((rows, channels), F)
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        for k in range(size):
            values[:, own] = values[:, own] + y[:, head * size + k, None] * inverse[head, k]
    return values, component, token


def test_transform_payloads_read_from_the_page_alone_are_the_same_values():
    rows, basis = 261, calibrated(40, 2, 8)
    encoder, decoder = (
        end(STREAM, rows, 16, torch.float32, kernel=kernel_named("native"), order=0, basis=basis)
        for end in (StreamEncoder, StreamDecoder)
    )
    base, codes = np.zeros((rows, 16), F), (basis.codes.numpy().astype(int), np.zeros(rows, int))
    for step, x in enumerate(activations(4, rows, 2, 8)):
        said = {"rung": TransformRung((3_000, 1_000, 500, 4_000)[step]), "epoch": 0, "step": step}
        frame = encoder.encode(x, **said, key_frame=step == 0).frame
        arrived = decoder.decode(frame, **said, key_frame=step == 0)
        values, *codes = second_transform(bytes(frame.numpy())[40:], rows, basis, *codes)
        base = base + values
        assert np.array_equal(base, arrived.numpy()), said["rung"].name
