import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.compression.cases import (
    CODED,
    DTYPES,
    base_formats,
    drifting,
    dtypes,
    orders,
    pair,
    rungs,
    same_bits,
    seeds,
    send,
    shapes,
)
from thinwire.compression import (
    BITS1,
    BITS2,
    INT4,
    INT8,
    LADDER,
    RAW,
    RUNGS,
    BaseFormat,
    NonFiniteError,
    RungError,
    TensorError,
    frame_bytes,
)

SIZE = (24, 40)


@settings(max_examples=60)
@given(shapes, dtypes, orders, base_formats, st.lists(rungs, min_size=1, max_size=6), seeds)
def test_both_ends_hold_the_same_bits_after_every_frame_of_any_rung_sequence(shape, dtype, order, form, sequence, seed):
    encoder, decoder = pair(*shape, dtype, order=order, base_format=form)
    for step, (x, rung) in enumerate(zip(drifting(*shape, dtype, len(sequence), seed), sequence, strict=True)):
        arrived = send(encoder, decoder, x, rung, step)
        assert encoder.checksum() == decoder.checksum()
        assert arrived.shape == x.shape
        assert arrived.dtype == dtype
        assert bool(torch.isfinite(arrived).all())


@settings(max_examples=8)
@given(orders, base_formats, st.lists(rungs, min_size=1, max_size=8))
def test_error_feedback_does_not_drift_over_a_thousand_steps(order, form, cycle):
    encoder, decoder = pair(*SIZE, order=order, base_format=form)
    errors = []
    for step, x in enumerate(drifting(*SIZE, torch.float32, 1000)):
        arrived = send(encoder, decoder, x, cycle[step % len(cycle)], step)
        errors.append(float((x - arrived).norm() / x.norm()))
    assert encoder.checksum() == decoder.checksum()
    period = 105  # one turn of the tensor's rotation, so that both means see the same tensors
    assert sum(errors[-period:]) <= 1.3 * sum(errors[period : 2 * period]) + 1e-6


@pytest.mark.parametrize("rung", [rung for rung in RUNGS if rung not in LADDER], ids=lambda rung: rung.name)
def test_error_feedback_of_every_rung_beyond_the_ladder_does_not_drift_over_a_thousand_steps(rung):
    encoder, decoder = pair(*SIZE)
    errors = []
    for step, x in enumerate(drifting(*SIZE, torch.float32, 1000)):
        arrived = send(encoder, decoder, x, rung, step)
        errors.append(float((x - arrived).norm() / x.norm()))
    assert encoder.checksum() == decoder.checksum()
    period = 105
    assert sum(errors[-period:]) <= 1.3 * sum(errors[period : 2 * period]) + 1e-6
    assert max(errors[period:]) < 0.3


@pytest.mark.parametrize("rung", CODED, ids=lambda rung: rung.name)
@pytest.mark.parametrize("form", BaseFormat)
def test_a_tensor_that_stands_still_is_reached(rung, form):
    encoder, decoder = pair(*SIZE, base_format=form)
    (x,) = drifting(*SIZE, torch.float32, 1)
    for step in range(60):
        arrived = send(encoder, decoder, x, rung, step)
    floor = 0.01 if form is BaseFormat.INT8 else 0.005
    assert float((x - arrived).norm() / x.norm()) < floor


@pytest.mark.parametrize("dtype", DTYPES)
def test_raw_frames_carry_every_bit(dtype):
    encoder, decoder = pair(*SIZE, dtype)
    x = torch.randint(0, 256, (SIZE[0], SIZE[1] * dtype.itemsize), dtype=torch.uint8).view(dtype)
    x[0, 0], x[0, 1], x[0, 2], x[0, 3] = math.nan, math.inf, -math.inf, -0.0
    for step, key_frame in enumerate((True, False)):
        arrived = send(encoder, decoder, x, RAW, step, key_frame=key_frame)
        assert same_bits(arrived, x)
        assert encoder.checksum() == decoder.checksum()


def test_what_a_base_cannot_hold_is_zero_in_it_and_does_not_spread():
    encoder, decoder = pair(*SIZE)
    x, following, last = drifting(*SIZE, torch.float32, 3)
    broken = x.clone()
    broken[0, 0], broken[1, 1], broken[2, 2] = math.nan, math.inf, 3e38
    send(encoder, decoder, broken, RAW, 0, key_frame=True)
    assert decoder.prediction()[0, 0] == 0
    assert decoder.prediction()[2, 2] == 0
    for step, tensor in enumerate((following, last), start=1):
        assert bool(torch.isfinite(send(encoder, decoder, tensor, INT8, step)).all())


@pytest.mark.parametrize("rung", CODED, ids=lambda rung: rung.name)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 2.0**62, 3e38])
@pytest.mark.parametrize("kernel", ["native", "eager"])
def test_a_coded_rung_refuses_what_is_not_finite_and_changes_nothing(rung, value, kernel):
    encoder, _ = pair(*SIZE, encoder_kernel=kernel)
    first, x = drifting(*SIZE, torch.float32, 2)
    encoder.encode(first, rung=RAW, epoch=1, step=0, key_frame=True)
    before = encoder.checksum()
    x[5, 7] = value
    with pytest.raises(NonFiniteError, match=rung.name):
        encoder.encode(x, rung=rung, epoch=1, step=1)
    assert encoder.checksum() == before


def test_large_but_finite_values_are_carried_and_stay_finite():
    encoder, decoder = pair(*SIZE)
    for step, x in enumerate(drifting(*SIZE, torch.float32, 30)):
        arrived = send(encoder, decoder, x * 2.0**50, RUNGS[1 + step % (len(RUNGS) - 1)], step)
        assert bool(torch.isfinite(arrived).all())
        assert encoder.checksum() == decoder.checksum()


def test_tiny_values_are_carried():
    encoder, decoder = pair(*SIZE)
    for step, x in enumerate(drifting(*SIZE, torch.float32, 8)):
        arrived = send(encoder, decoder, x * 2.0**-40, INT8, step)
    assert float((x * 2.0**-40 - arrived).norm() / (x * 2.0**-40).norm()) < 0.01


@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.name)
def test_the_reported_error_is_the_true_one(rung):
    encoder, decoder = pair(*SIZE)
    for step, x in enumerate(drifting(*SIZE, torch.float32, 5)):
        encoded = encoder.encode(x, rung=rung, epoch=1, step=step)
        arrived = decoder.decode(encoded.frame, rung=rung, epoch=1, step=step)
        assert encoded.relative_error == pytest.approx(float((x - arrived).norm() / x.norm()), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize(("rung", "ceiling"), [(INT8, 5e-4), (INT4, 6e-3), (BITS2, 0.03)])
def test_the_predictor_lowers_the_error_order_by_order(rung, ceiling):
    errors = []
    for order in range(3):
        encoder, decoder = pair(144, 96, order=order)
        tensors = drifting(144, 96, torch.float32, 25)
        for step, x in enumerate(tensors):
            arrived = send(encoder, decoder, x, RAW if step == 0 else rung, step, key_frame=step == 0)
        errors.append(float((x - arrived).norm() / x.norm()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < ceiling


def test_a_key_frame_forgets_the_history_and_repairs_a_lost_base():
    encoder, decoder = pair(*SIZE)
    tensors = drifting(*SIZE, torch.float32, 6)
    for step, x in enumerate(tensors[:3]):
        encoder.encode(x, rung=BITS2, epoch=1, step=step)  # never arrives
    assert encoder.checksum() != decoder.checksum()
    arrived = send(encoder, decoder, tensors[3], INT8, 3, key_frame=True)
    assert encoder.checksum() == decoder.checksum()
    assert float((tensors[3] - arrived).norm() / tensors[3].norm()) < 0.02
    send(encoder, decoder, tensors[4], BITS2, 4)
    assert encoder.checksum() == decoder.checksum()


def test_reset_forgets_everything():
    encoder, decoder = pair(*SIZE)
    fresh = encoder.checksum()
    for step, x in enumerate(drifting(*SIZE, torch.float32, 4)):
        send(encoder, decoder, x, BITS2, step)
    encoder.reset()
    assert encoder.checksum() == fresh != decoder.checksum()


def test_the_prediction_stands_in_for_a_frame_and_changes_nothing():
    encoder, decoder = pair(144, 96)
    tensors = drifting(144, 96, torch.float32, 10)
    for step, x in enumerate(tensors[:9]):
        send(encoder, decoder, x, INT8, step)
    before = decoder.checksum()
    guess = decoder.prediction()
    assert decoder.checksum() == before
    assert float((tensors[9] - guess).norm() / tensors[9].norm()) < 0.07


def test_results_are_written_where_the_caller_wants_them():
    encoder, decoder = pair(*SIZE)
    (x,) = drifting(*SIZE, torch.float32, 1)
    room = torch.zeros(2 * frame_bytes(BITS2, *SIZE, torch.float32), dtype=torch.uint8)
    part = room[: room.numel() // 2]
    encoded = encoder.encode(x, rung=BITS2, epoch=1, step=0, out=part)
    assert encoded.frame.data_ptr() == room.data_ptr()
    out = torch.empty(SIZE)
    assert decoder.decode(part, rung=BITS2, epoch=1, step=0, out=out).data_ptr() == out.data_ptr()


def test_less_is_kept_in_int8_and_with_a_lower_order():
    sizes = {
        (order, form): pair(144, 96, order=order, base_format=form)[0].base_bytes
        for order in range(3)
        for form in BaseFormat
    }
    values = 144 * 96
    sums = 6 * 96 * 4
    for order in range(3):
        assert sizes[order, BaseFormat.FULL] == values * (4 + 2 * order) + sums
        assert sizes[order, BaseFormat.INT8] == (values + 4 * 144) * (1 + order) + sums


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (torch.zeros(24, 39), r"expected \(24, 40\) of torch.float32, got \(24, 39\)"),
        (torch.zeros(24, 40, dtype=torch.float16), "got .* of torch.float16"),
        (torch.zeros(24, 40, dtype=torch.int8), "got .* of torch.int8"),
        (torch.zeros(40, 24).t(), "expected a contiguous tensor"),
        (torch.zeros(24, 40, device="meta"), "expected it on cpu, got meta"),
    ],
)
def test_a_tensor_of_another_kind_is_refused(tensor, said):
    encoder, _ = pair(*SIZE)
    with pytest.raises(TensorError, match=said):
        encoder.encode(tensor, rung=BITS2, epoch=1, step=0)


def test_unknown_dtypes_shapes_and_orders_are_refused_when_a_stream_is_opened():
    with pytest.raises(TensorError, match="float64"):
        pair(*SIZE, torch.float64)
    with pytest.raises(TensorError, match="rows"):
        pair(-1, 4)
    with pytest.raises(ValueError, match="order"):
        pair(*SIZE, order=3)


def test_a_room_of_another_size_is_refused():
    encoder, _ = pair(*SIZE)
    with pytest.raises(TensorError, match="out"):
        encoder.encode(torch.zeros(SIZE), rung=BITS2, epoch=1, step=0, out=torch.empty(10, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (torch.zeros(10), r"frame: expected \[n\] of torch.uint8, got \[10\] of torch.float32"),
        (torch.zeros(2, 5, dtype=torch.uint8), r"frame: expected \[n\] of torch.uint8, got \[2, 5\]"),
        (torch.zeros(20, dtype=torch.uint8)[::2], "frame: expected a contiguous tensor"),
        (torch.zeros(10, dtype=torch.uint8, device="meta"), "frame: expected it on cpu, got meta"),
    ],
)
def test_what_is_no_row_of_bytes_is_no_frame(frame, said):
    _, decoder = pair(*SIZE)
    with pytest.raises(TensorError, match=said):
        decoder.decode(frame, rung=BITS2, epoch=1, step=0)


@pytest.mark.parametrize(
    "out", [torch.empty(40, 24), torch.empty(SIZE, dtype=torch.bfloat16), torch.empty(SIZE[::-1]).t()]
)
def test_a_room_of_another_kind_is_refused_by_a_receiver(out):
    encoder, decoder = pair(*SIZE)
    frame = encoder.encode(torch.zeros(SIZE), rung=BITS2, epoch=1, step=0).frame
    with pytest.raises(TensorError, match="out: expected"):
        decoder.decode(frame, rung=BITS2, epoch=1, step=0, out=out)


@pytest.mark.parametrize("rung", ["bits2", None, 2_000])
def test_what_is_no_rung_is_refused(rung):
    encoder, decoder = pair(*SIZE)
    with pytest.raises(RungError, match=f"rung: expected a rung, such as .*, got {rung!r}"):
        encoder.encode(torch.zeros(SIZE), rung=rung, epoch=1, step=0)
    with pytest.raises(RungError, match=f"rung: expected a rung, such as .*, got {rung!r}"):
        decoder.decode(torch.zeros(10, dtype=torch.uint8), rung=rung, epoch=1, step=0)


@pytest.mark.parametrize("rung", [rung for rung in RUNGS if not rung.carries_key_frames], ids=lambda rung: rung.name)
def test_a_key_frame_on_a_coarse_rung_is_refused(rung):
    encoder, _ = pair(*SIZE)
    with pytest.raises(RungError, match="key frame: expected raw, int8, fp8, int4 or transform"):
        encoder.encode(torch.zeros(SIZE), rung=rung, epoch=1, step=0, key_frame=True)


def test_steps_and_epochs_outside_the_header_are_refused():
    encoder, _ = pair(*SIZE)
    with pytest.raises(ValueError, match="step"):
        encoder.encode(torch.zeros(SIZE), rung=BITS1, epoch=1, step=2**32)
    with pytest.raises(ValueError, match="epoch"):
        encoder.encode(torch.zeros(SIZE), rung=BITS1, epoch=-1, step=0)
