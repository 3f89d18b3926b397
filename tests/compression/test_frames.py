import struct
import zlib

import pytest
import torch

from tests.compression.cases import STREAM, drifting, pair
from thinwire.compression import (
    BITS2,
    HEADER_BYTES,
    INT8,
    LADDER,
    RAW,
    RUNGS,
    BaseFormat,
    ChecksumError,
    Exchange,
    FrameError,
    HeaderMismatch,
    LengthError,
    MagicError,
    Role,
    StreamDecoder,
    StreamId,
    VersionError,
    choose_kernel,
    frame_bytes,
)

SIZE = (24, 40)


def one_frame(rung=BITS2, epoch=7, step=9, **options):
    encoder, _ = pair(*SIZE, **options)
    (x,) = drifting(*SIZE, torch.float32, 1)
    return encoder.encode(x, rung=rung, epoch=epoch, step=step).frame


def test_a_header_is_what_the_wire_format_says():
    frame = bytes(one_frame().numpy())
    payload = frame[40:]
    assert frame[:40] == struct.pack(
        "<2sBBBBHIIIIHHHBBII",
        b"tw",
        2,  # version
        0 | 0 << 3 | 2 << 4 | 0 << 6,  # float32, no key frame, order 2, full bases
        4,  # bits2
        1,  # branch
        2000,  # millibits
        7,  # epoch
        9,  # step
        24,
        40,
        3,  # layer
        2,  # source
        5,  # destination
        1,  # ring
        1,  # key
        len(payload),
        zlib.crc32(payload),
    )
    assert len(payload) == 4 + 24 + 40 + 24 * 40 // 4


@pytest.mark.parametrize("kernel", ["native", "eager"])
@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("epoch", {"epoch": 8}),
        ("step", {"step": 10}),
        ("rung", {"rung": LADDER[2]}),
        ("key frame", {"key_frame": True, "rung": INT8}),
    ],
)
def test_a_frame_of_another_moment_is_refused_by_name(kernel, field, change):
    rung = change.get("rung", BITS2)
    # lengths differ between rungs, and length is checked first: pad what is compared
    frame = one_frame(rung=rung) if field == "key frame" else one_frame()
    _, decoder = pair(*SIZE, decoder_kernel=kernel)
    arguments = {"rung": rung, "epoch": 7, "step": 9} | change
    with pytest.raises(LengthError if field == "rung" else HeaderMismatch) as caught:
        decoder.decode(frame, **arguments)
    if field != "rung":
        assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "stream"),
    [
        ("layer", StreamId(Exchange.RING, 4, Role.KEY, 1, 2, 5)),
        ("role", StreamId(Exchange.RING, 3, Role.VALUE, 1, 2, 5)),
        ("exchange", StreamId(Exchange.ULYSSES_INPUT, 3, Role.KEY, 1, 2, 5)),
        ("branch", StreamId(Exchange.RING, 3, Role.KEY, 0, 2, 5)),
        ("source", StreamId(Exchange.RING, 3, Role.KEY, 1, 1, 5)),
        ("destination", StreamId(Exchange.RING, 3, Role.KEY, 1, 2, 4)),
    ],
)
def test_a_frame_of_another_stream_is_refused_by_name(field, stream):
    decoder = StreamDecoder(stream, *SIZE, torch.float32, kernel=choose_kernel("eager"))
    with pytest.raises(HeaderMismatch) as caught:
        decoder.decode(one_frame(), rung=BITS2, epoch=7, step=9)
    assert caught.value.field == field
    assert "ask for a key frame" in str(caught.value)


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("dtype", {"dtype": torch.bfloat16}),
        ("predictor order", {"order": 1}),
        ("base format", {"base_format": BaseFormat.INT8}),
    ],
)
def test_ends_that_were_opened_differently_refuse_each_other(field, options):
    _, decoder = pair(*SIZE, **options)
    with pytest.raises(HeaderMismatch) as caught:
        decoder.decode(one_frame(), rung=BITS2, epoch=7, step=9)
    assert caught.value.field == field
    if field == "dtype":
        assert "frame header, dtype: expected bfloat16, got float32" in str(caught.value)


def test_a_shape_of_the_same_size_is_refused():
    _, decoder = pair(40, 24)
    with pytest.raises(HeaderMismatch) as caught:
        decoder.decode(one_frame(), rung=BITS2, epoch=7, step=9)
    assert (caught.value.field, caught.value.expected, caught.value.got) == ("rows", 40, 24)


@pytest.mark.parametrize("kernel", ["native", "eager"])
@pytest.mark.parametrize(
    ("shape", "dtype", "rung", "said"),
    [
        ((24, 48), torch.float32, BITS2, "channels: expected 48, got 40"),
        ((23, 40), torch.float32, BITS2, "rows: expected 23, got 24"),
        ((24, 40), torch.bfloat16, RAW, "dtype: expected bfloat16, got float32"),
        ((24, 40), torch.float32, LADDER[2], "rung: expected 2, got 4"),
    ],
)
def test_a_frame_of_another_size_says_what_its_ends_do_not_agree_on(kernel, shape, dtype, rung, said):
    _, decoder = pair(*shape, dtype, decoder_kernel=kernel)
    frame = one_frame(RAW if rung is RAW else BITS2)
    size = frame_bytes(rung, *shape, dtype)
    with pytest.raises(LengthError) as caught:
        decoder.decode(frame, rung=rung, epoch=7, step=9)
    assert str(caught.value) == (
        f"frame: expected {size} bytes, got {frame.numel()} (its header, {said}); ask for a key frame"
    )


def test_what_is_no_frame_at_all_has_a_length_and_no_more():
    _, decoder = pair(*SIZE)
    with pytest.raises(LengthError, match=r"bytes, got 100; ask for a key frame"):
        decoder.decode(torch.full((100,), 7, dtype=torch.uint8), rung=BITS2, epoch=7, step=9)


@pytest.mark.parametrize(
    ("offset", "error"), [(0, MagicError), (1, MagicError), (2, VersionError), (36, ChecksumError), (40, ChecksumError)]
)
def test_a_flipped_byte_is_refused(offset, error):
    _, decoder = pair(*SIZE)
    frame = one_frame()
    frame[offset] ^= 1
    with pytest.raises(error):
        decoder.decode(frame, rung=BITS2, epoch=7, step=9)


@pytest.mark.parametrize("size", [0, 1, HEADER_BYTES - 1, HEADER_BYTES, -1, None])
def test_a_frame_of_another_length_is_refused(size):
    _, decoder = pair(*SIZE)
    frame = one_frame()
    other = torch.cat([frame, frame]) if size is None else frame[:size]
    with pytest.raises(LengthError, match=f"expected {frame.numel()} bytes, got {other.numel()}"):
        decoder.decode(other.clone(), rung=BITS2, epoch=7, step=9)


@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.name)
@pytest.mark.parametrize("kernel", ["native", "eager"])
def test_a_refusal_leaves_the_state_alone_and_the_true_frame_still_fits(rung, kernel):
    encoder, decoder = pair(*SIZE, decoder_kernel=kernel)
    first, second = drifting(*SIZE, torch.float32, 2)
    decoder.decode(encoder.encode(first, rung=RAW, epoch=0, step=0).frame, rung=RAW, epoch=0, step=0)
    frame = encoder.encode(second, rung=rung, epoch=0, step=1).frame
    before = decoder.checksum()
    for offset in (0, 2, 8, 12, 36, 39, frame.numel() - 1):
        broken = frame.clone()
        broken[offset] ^= 0x10
        with pytest.raises(FrameError):
            decoder.decode(broken, rung=rung, epoch=0, step=1)
        assert decoder.checksum() == before
    decoder.decode(frame, rung=rung, epoch=0, step=1)
    assert decoder.checksum() == encoder.checksum()


@pytest.mark.parametrize("field", ["layer", "branch", "source", "destination"])
def test_a_stream_outside_the_headers_fields_cannot_be_named(field):
    values = {"layer": 1, "branch": 0, "source": 0, "destination": 0} | {field: 70_000}
    with pytest.raises(ValueError, match=f"stream {field}: expected 0 to .*, got 70000"):
        StreamId(exchange=STREAM.exchange, role=STREAM.role, **values)
