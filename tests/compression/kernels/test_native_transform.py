"""The native kernel's transform rungs against the reference: the same frames, tensors, states and refusals."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.compression.attacks.frames import resealed
from tests.compression.cases import STREAM, base_formats, drifting, dtypes, kernel_named, orders, same_bits, seeds
from thinwire.compression import (
    LADDER,
    BaseFormat,
    Basis,
    FrameError,
    StreamDecoder,
    StreamEncoder,
    TransformRung,
)
from thinwire.compression.transform.amplitudes import energy_codes
from thinwire.compression.transform.trellis import BLOCK_ROWS

RATES = (250, 500, 1_000, 2_000, 3_000, 4_500, 6_000)
shapes = st.tuples(st.integers(0, 70), st.integers(1, 4), st.integers(1, 20)) | st.sampled_from(
    [(1, 1, 1), (1, 3, 16), (128, 3, 64), (129, 2, 33), (0, 2, 4), (5, 1, 0), (64, 1, 17), (40, 1, 192), (9, 2, 80)]
)
rungs = st.sampled_from([TransformRung(rate) for rate in RATES]) | st.sampled_from(LADDER)


def basis_for(blocks, size, seed=0):
    """An arbitrary basis with a steep spectrum; whether it is a good one does not matter here."""
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(blocks, size, size, generator=generator)).Q
    steep = torch.exp2(-torch.arange(size) * 8 / max(size, 1))
    codes = energy_codes((steep * steep).repeat(blocks))
    return Basis((rotation * steep).contiguous(), (rotation.mT / steep[:, None]).contiguous(), codes)


def pair(shape, dtype, order, form, encoder, decoder):
    rows, blocks, size = shape
    said = {"order": order, "base_format": form, "basis": basis_for(blocks, size)}
    ends = ((StreamEncoder, encoder), (StreamDecoder, decoder))
    return tuple(end(STREAM, rows, blocks * size, dtype, kernel=kernel_named(name), **said) for end, name in ends)


def check_alike(shape, dtype, order, form, sequence, tensors, key_frames=()):
    native = pair(shape, dtype, order, form, "native", "eager")
    eager = pair(shape, dtype, order, form, "eager", "native")
    for step, (x, rung) in enumerate(zip(tensors, sequence, strict=True)):
        key_frame = step in key_frames and rung.carries_key_frames
        said = {"rung": rung, "epoch": 0, "step": step, "key_frame": key_frame}
        fast, reference = native[0].encode(x, **said), eager[0].encode(x, **said)
        assert torch.equal(fast.frame, reference.frame)
        assert fast.relative_error == pytest.approx(reference.relative_error, rel=1e-3, abs=1e-6)
        assert same_bits(native[1].decode(fast.frame, **said), eager[1].decode(fast.frame, **said))
        assert len({end.checksum() for end in (*native, *eager)}) == 1


@settings(max_examples=20)
@given(
    shapes,
    dtypes,
    orders,
    base_formats,
    st.lists(rungs, min_size=1, max_size=5),
    st.sets(st.integers(0, 4)),
    seeds,
)
def test_transform_rungs_write_the_bits_of_the_reference(shape, dtype, order, form, sequence, key_frames, seed):
    rows, blocks, size = shape
    tensors = drifting(rows, blocks * size, dtype, len(sequence), seed)
    check_alike(shape, dtype, order, form, sequence, tensors, key_frames)


@pytest.mark.parametrize("rows", [BLOCK_ROWS, 2 * BLOCK_ROWS + 1])
def test_kernels_agree_across_blocks_of_the_trellis(rows):
    sequence = [TransformRung(rate) for rate in (3_000, 1_000, 500)]
    tensors = drifting(rows, 2 * 9, torch.float32, len(sequence), 3)
    check_alike((rows, 2, 9), torch.float32, 2, BaseFormat.FULL, sequence, tensors, {0})


@settings(max_examples=8)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 3), st.integers(1, 12)),
    orders,
    base_formats,
    st.lists(st.sampled_from([2.0**-40, 2.0**-20, 0.0, 1.0, 2.0**20, 2.0**40]), min_size=2, max_size=5),
    st.sampled_from(RATES),
    seeds,
)
def test_kernels_agree_when_magnitudes_jump_and_changes_do_not_fit(shape, order, form, factors, rate, seed):
    """Loud and silent steps after each other, and rows of unlike loudness: more changes than may be said."""
    rows, blocks, size = shape
    loudness = torch.exp2(torch.arange(rows) % 7 * 3.0 - 9)[:, None]
    tensors = drifting(rows, blocks * size, torch.float32, len(factors), seed)
    scaled = [x * factor * loudness for x, factor in zip(tensors, factors, strict=True)]
    check_alike(shape, torch.float32, order, form, [TransformRung(rate)] * len(factors), scaled)


def outcome(decoder, frame, said):
    """The tensor's bytes, or the refusal's words, and the state after either."""
    try:
        said_back = bytes(decoder.decode(frame, **said).view(torch.uint8).numpy())
    except FrameError as error:
        return type(error), str(error), decoder.checksum()
    return said_back, decoder.checksum()


@settings(max_examples=40)
@given(
    st.sampled_from([(3, 1, 5), (9, 2, 4), (1, 1, 1), (17, 1, 16)]),
    st.sampled_from(RATES),
    st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=4),
    st.booleans(),
)
def test_hostile_payloads_meet_the_same_answer_from_both_kernels(shape, rate, changes, from_the_front):
    """With a valid CRC-32, so that the meaning of the bytes decides: refused in the same words, or read alike."""
    first, second = drifting(shape[0], shape[1] * shape[2], torch.float32, 2)
    rung = TransformRung(rate)
    encoder, native = pair(shape, torch.float32, 2, BaseFormat.FULL, "native", "native")
    _, eager = pair(shape, torch.float32, 2, BaseFormat.FULL, "native", "eager")
    opening = encoder.encode(first, rung=rung, epoch=0, step=0).frame
    for decoder in (native, eager):
        decoder.decode(opening, rung=rung, epoch=0, step=0)
    forged = bytearray(encoder.encode(second, rung=rung, epoch=0, step=1).frame.numpy())
    payload_bytes = len(forged) - 40
    for place, byte in changes:
        forged[40 + (place % min(payload_bytes, 12) if from_the_front else place % payload_bytes)] = byte
    frame = torch.frombuffer(bytearray(resealed(bytes(forged))), dtype=torch.uint8)
    said = {"rung": rung, "epoch": 0, "step": 1}
    assert outcome(native, frame, said) == outcome(eager, frame, said)
