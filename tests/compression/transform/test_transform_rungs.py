import math
import struct
from functools import cache
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.compression.attacks.frames import put, resealed
from tests.compression.cases import STREAM, base_formats, drifting, dtypes, kernel_named, orders, seeds, send
from thinwire.compression import (
    BITS1,
    BITS2,
    CALIBRATED_LADDER,
    HEADER_BYTES,
    INT4,
    INT8,
    LADDER,
    RAW,
    RUNGS,
    Basis,
    BasisMeter,
    NonFiniteError,
    PayloadError,
    RungError,
    StreamDecoder,
    StreamEncoder,
    TensorError,
    TransformRung,
    frame_bytes,
    rung_named,
    true_millibits,
)

HEADS, SIZE, ROWS = 3, 8, 40
CHANNELS = HEADS * SIZE
TRANSFORMS = tuple(rung for rung in CALIBRATED_LADDER if isinstance(rung, TransformRung))


def mixing(heads=HEADS, size=SIZE, seed=0):
    """How the made-up activations of each head hang together: [heads, size, size], with a steep spectrum."""
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(heads, size, size, generator=generator)).Q
    return rotation * torch.exp2(-torch.arange(size) * 8 / size)[None, :, None]


def activations(steps, rows=ROWS, heads=HEADS, size=SIZE, dtype=torch.float32, seed=0):
    series = (x.view(rows, heads, size) for x in drifting(rows, heads * size, torch.float32, steps, seed))
    matrices = mixing(heads, size)
    return [torch.einsum("rhi,hij->rhj", x, matrices).reshape(rows, heads * size).to(dtype) for x in series]


@cache
def calibrated(rows=ROWS, heads=HEADS, size=SIZE):
    meter = BasisMeter(heads, size)
    series = activations(12, max(rows, 16), heads, size, seed=7)
    for before, after in pairwise(series):
        meter.add(after - before)
    return meter.basis()


def ends(rows=ROWS, heads=HEADS, size=SIZE, dtype=torch.float32, basis=None, **options):
    basis = basis or calibrated(rows, heads, size)
    shape = (rows, heads * size, dtype)
    kernel = kernel_named("native")
    return tuple(end(STREAM, *shape, kernel=kernel, basis=basis, **options) for end in (StreamEncoder, StreamDecoder))


@settings(max_examples=15)
@given(
    st.sampled_from([(40, 3, 8), (1, 1, 4), (7, 2, 5), (0, 1, 4), (3, 1, 1), (65, 1, 16)]),
    dtypes,
    orders,
    base_formats,
    st.lists(st.sampled_from(CALIBRATED_LADDER + LADDER), min_size=1, max_size=5),
    seeds,
)
def test_both_ends_hold_the_same_bits_whatever_rungs_follow_each_other(shape, dtype, order, form, sequence, seed):
    encoder, decoder = ends(*shape, dtype, order=order, base_format=form)
    tensors = activations(len(sequence), *shape, dtype=dtype, seed=seed)
    for step, (x, rung) in enumerate(zip(tensors, sequence, strict=True)):
        arrived = send(encoder, decoder, x, rung, step, key_frame=step == 0 and rung.carries_key_frames)
        assert encoder.checksum() == decoder.checksum()
        assert bool(torch.isfinite(arrived).all())


@pytest.mark.parametrize("rung", TRANSFORMS, ids=lambda rung: rung.name)
@pytest.mark.parametrize("shape", [(0, 24), (1, 24), (40, 24), (128, 192), (1024, 3072)])
def test_a_payload_takes_what_its_rate_says_side_information_included(rung, shape):
    values = shape[0] * shape[1]
    size = rung.payload_bytes(*shape, torch.float32)
    least = 6 + math.ceil(sum(shape) / 8)
    assert size == max(math.ceil(values * rung.millibits / 8000), least)
    assert frame_bytes(rung, *shape, torch.float32) == HEADER_BYTES + size
    if values > 20_000:
        assert true_millibits(rung, *shape, torch.float32) < rung.millibits + 20


def mean_error(rung):
    encoder, decoder = ends(rows=128, heads=4, size=16, order=0)
    errors = []
    for step, x in enumerate(activations(6, 128, 4, 16)):
        arrived = send(encoder, decoder, x, RAW if step == 0 else rung, step, key_frame=step == 0)
        errors.append(float((x - arrived).norm() / x.norm()))
    return sum(errors)


def test_a_finer_rate_has_less_error():
    errors = [mean_error(TransformRung(rate)) for rate in (250, 500, 1_000, 2_000, 4_000, 6_000)]
    assert sorted(errors, reverse=True) == errors


@pytest.mark.parametrize("scalar", [BITS1, BITS2, INT4], ids=lambda rung: rung.name)
def test_at_the_true_rate_of_a_scalar_rung_the_error_is_less(scalar):
    rate = true_millibits(scalar, 128, 64, torch.float32)
    assert mean_error(TransformRung(rate)) < 0.75 * mean_error(scalar)


def test_errors_go_where_the_metric_says_they_cost_least():
    meter = BasisMeter(HEADS, SIZE)
    generator = torch.Generator().manual_seed(1)
    meter.weigh(torch.randn(500, CHANNELS, generator=generator) * torch.tensor(([10.0] * 4 + [0.1] * 4) * HEADS))
    series = [torch.randn(64, CHANNELS, generator=generator) for _ in range(6)]
    for x in series:
        meter.add(x)
    encoder, decoder = ends(rows=64, basis=meter.basis())
    for step, x in enumerate(series):
        arrived = send(encoder, decoder, x, TransformRung(1_500), step)
    errors_HD = (x - arrived).view(64, HEADS, SIZE).square().mean(dim=0)
    assert float(errors_HD[:, :4].mean()) < 0.3 * float(errors_HD[:, 4:].mean())


@pytest.mark.parametrize(("rate", "share"), [(250, 0.5), (1_000, 0.02), (3_000, 0.01)])
def test_a_tensor_that_stands_still_is_reached_in_every_component(rate, share):
    """Components without bits wait, but not for ever: what they lack grows against what is left of the others."""
    encoder, decoder = ends(order=0)
    (x,) = activations(1)
    basis = calibrated()
    for step in range(60):
        arrived = send(encoder, decoder, x, TransformRung(rate), step)
    lost_C = basis.components(x - arrived).square().mean(dim=0).sqrt()
    assert float(lost_C.max()) < share * float(basis.components(x).square().mean(dim=0).sqrt().max())


def test_error_feedback_does_not_drift_with_components_at_no_bits():
    encoder, decoder = ends(rows=12, heads=1, size=8)
    errors = []
    for step, x in enumerate(activations(315, 12, 1, 8)):
        arrived = send(encoder, decoder, x, TransformRung((500, 250, 1_000)[step % 3]), step)
        errors.append(float((x - arrived).norm() / x.norm()))
    assert encoder.checksum() == decoder.checksum()
    assert sum(errors[-105:]) <= 1.3 * sum(errors[105:210])


@pytest.mark.parametrize("kernel", ["native", "eager"])
def test_the_reported_error_is_the_one_in_the_metric(kernel):
    meter = BasisMeter(HEADS, SIZE)
    generator = torch.Generator().manual_seed(1)
    meter.weigh(torch.randn(500, CHANNELS, generator=generator) * torch.tensor(([10.0] * 4 + [0.1] * 4) * HEADS))
    series = [torch.randn(64, CHANNELS, generator=generator) for _ in range(3)]
    meter.add(series[0])
    basis = meter.basis()
    shape = (STREAM, 64, CHANNELS, torch.float32)
    encoder, decoder = (end(*shape, kernel=kernel_named(kernel), basis=basis) for end in (StreamEncoder, StreamDecoder))
    for step, x in enumerate(series):
        said = {"rung": TransformRung(1_500), "epoch": 0, "step": step}
        sent = encoder.encode(x, **said)
        error = basis.components(x - decoder.decode(sent.frame, **said)).norm()
        assert sent.relative_error == pytest.approx(float(error / (basis.components(x[::8]).norm() * 8**0.5)), rel=1e-3)


EVERY_RUNG = tuple(RUNGS) + TRANSFORMS


@settings(max_examples=2)
@given(orders, base_formats, st.lists(st.sampled_from(EVERY_RUNG), min_size=4, max_size=12))
def test_error_feedback_never_drifts_whatever_rungs_take_turns_for_a_thousand_steps(order, form, cycle):
    encoder, decoder = ends(rows=12, heads=1, size=8, order=order, base_format=form)
    errors = []
    for step, x in enumerate(activations(1_000, 12, 1, 8)):
        arrived = send(encoder, decoder, x, cycle[step % len(cycle)], step)
        errors.append(float((x - arrived).norm() / x.norm()))
    assert encoder.checksum() == decoder.checksum()
    period = 105  # one turn of the tensor's rotation
    assert sum(errors[-period:]) <= 1.3 * sum(errors[period : 2 * period]) + 1e-6


@pytest.mark.parametrize("rate", [3_000, 5_000])
def test_a_fine_rate_carries_key_frames(rate):
    encoder, decoder = ends()
    first, second = activations(2)
    for step, x in enumerate((first, second)):
        encoder.encode(x, rung=TransformRung(500), epoch=1, step=step)  # never arrives
    arrived = send(encoder, decoder, second, TransformRung(rate), 2, key_frame=True)
    assert encoder.checksum() == decoder.checksum()
    assert float((second - arrived).norm() / second.norm()) < 0.2


def test_a_raw_key_frame_forgets_amplitudes_that_never_arrived():
    encoder, decoder = ends()
    first, second, third = activations(3)
    encoder.encode(first, rung=TransformRung(1_000), epoch=1, step=0)  # never arrives
    send(encoder, decoder, second, RAW, 1, key_frame=True)
    send(encoder, decoder, third, TransformRung(1_000), 2)
    assert encoder.checksum() == decoder.checksum()


@pytest.mark.parametrize("value", [math.nan, math.inf, 2.0**62])
def test_what_is_not_finite_is_refused_and_changes_nothing(value):
    encoder, _ = ends()
    (x,) = activations(1)
    before = encoder.checksum()
    x[3, 3] = value
    with pytest.raises(NonFiniteError):
        encoder.encode(x, rung=TransformRung(1_000), epoch=1, step=0)
    assert encoder.checksum() == before


def test_without_a_basis_a_transform_rung_says_what_is_missing():
    encoder = StreamEncoder(STREAM, ROWS, CHANNELS, torch.float32, kernel=kernel_named("native"))
    with pytest.raises(RungError, match="expected a stream opened with a basis"):
        encoder.encode(torch.zeros(ROWS, CHANNELS), rung=TransformRung(1_000), epoch=1, step=0)


def test_a_basis_of_another_width_is_refused():
    with pytest.raises(TensorError, match="expected one for 30 channels, got one for 24"):
        StreamEncoder(STREAM, ROWS, 30, torch.float32, kernel=kernel_named("native"), basis=calibrated())


@pytest.mark.parametrize("rate", [0, 249, 6_001])
def test_rates_beyond_the_ladder_are_refused(rate):
    for make in (lambda: TransformRung(rate), lambda: rung_named(f"transform-{rate}")):
        with pytest.raises(RungError, match=f"transform rate: expected 250 to 6000 millibits, got {rate}"):
            make()


def test_a_law_that_orders_rungs_by_loss_finds_every_transform_rung_below_int8():
    losses = [rung.distortion for rung in (INT8, *TRANSFORMS)]
    assert sorted(losses) == losses


def test_any_rate_has_a_name():
    assert rung_named("transform-777") == TransformRung(777)
    with pytest.raises(RungError, match="transform-MILLIBITS"):
        rung_named("transform-x")


def forged(change):
    encoder, decoder = ends()
    frame = encoder.encode(activations(1)[0], rung=TransformRung(1_000), epoch=1, step=0).frame
    return decoder, torch.frombuffer(bytearray(resealed(change(bytes(frame.numpy())))), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda frame: put(frame, 40, bytes([frame[40] ^ 1])), "another basis"),
        (lambda frame: put(frame, 44, b"\x08"), "Rice parameters"),
        (lambda frame: put(frame, 45, b"\xff"), "Rice parameters"),
        (lambda frame: put(frame, 46, b"\xff" * (len(frame) - 46)), "bits without an end|scale changes"),
        (lambda frame: put(frame, -1, b"\xff"), "zeros"),
    ],
)
def test_a_forged_payload_is_refused_and_changes_nothing(change, said):
    decoder, frame = forged(change)
    before = decoder.checksum()
    with pytest.raises(PayloadError, match=said):
        decoder.decode(frame, rung=TransformRung(1_000), epoch=1, step=0)
    assert decoder.checksum() == before


def test_another_basis_on_the_other_end_is_noticed():
    (encoder, _), (_, decoder) = ends(), ends(basis=Basis(*(t.clone() for t in other_basis())))
    frame = encoder.encode(activations(1)[0], rung=TransformRung(1_000), epoch=1, step=0).frame
    with pytest.raises(PayloadError, match="same calibration file"):
        decoder.decode(frame, rung=TransformRung(1_000), epoch=1, step=0)


def other_basis():
    basis = calibrated()
    return basis.forward * 2, basis.inverse / 2, basis.codes


@settings(max_examples=25)
@given(st.binary(min_size=120, max_size=120), st.integers(-300, 300))
def test_any_payload_with_a_good_header_is_refused_or_understood(noise, common):
    """A decoder fed with noise neither crashes nor takes in what is not finite."""
    decoder, frame = forged(lambda frame: frame[:42] + struct.pack("<h", common) + noise[: len(frame) - 44])
    try:
        arrived = decoder.decode(frame, rung=TransformRung(1_000), epoch=1, step=0)
    except PayloadError:
        return
    assert bool(torch.isfinite(arrived).all())
