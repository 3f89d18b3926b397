import pytest
import torch
from hypothesis import given, settings

from tests.compression.cases import CODED, DTYPES, NOTHING, dtypes, rungs, shapes, through
from thinwire.compression import (
    BITS2,
    HEADER_BYTES,
    LADDER,
    RAW,
    RUNGS,
    RungError,
    TensorError,
    frame_bytes,
    rung_named,
    true_millibits,
)
from thinwire.compression.rungs.low_rank import LowRankRung


def test_the_ladder_descends_in_bits_and_in_fidelity():
    rates = [rung.millibits for rung in LADDER]
    assert rates == sorted(rates, reverse=True)
    losses = [rung.distortion for rung in LADDER]
    assert losses == sorted(losses)
    assert len(LADDER) == 7


def test_every_rung_has_a_name_and_a_number_with_rate_of_its_own():
    assert len({rung.name for rung in RUNGS}) == len(RUNGS) == 16
    assert len({(rung.wire_id, rung.millibits) for rung in RUNGS}) == len(RUNGS)
    assert RUNGS[: len(LADDER)] == LADDER


@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.name)
def test_a_rung_is_found_by_its_name(rung):
    assert rung_named(rung.name) is rung


def test_an_unknown_rung_is_refused_with_the_names_there_are():
    with pytest.raises(
        RungError,
        match=r"expected one of raw, int8, int4, .*, lowrank32-int4, or transform-MILLIBITS, got 'int5'",
    ):
        rung_named("int5")


@settings(max_examples=100)
@given(rungs, shapes, dtypes)
def test_the_size_of_a_frame_is_known_beforehand(rung, shape, dtype):
    size = frame_bytes(rung, *shape, dtype)
    assert size == frame_bytes(rung, *shape, dtype)
    assert size == HEADER_BYTES + rung.payload_bytes(*shape, dtype)
    values = shape[0] * shape[1]
    if values and rung in CODED and not isinstance(rung, LowRankRung):
        assert size * 8_000 / values >= rung.millibits
    x = torch.randn(shape)
    payload = rung.encode(x.to(dtype) if rung.codes_whole_tensor else x, dtype, NOTHING)
    assert payload.numel() == rung.payload_bytes(*shape, dtype)


def test_two_bits_cost_at_most_147_thousandths_of_half_precision_on_small_shards():
    assert frame_bytes(BITS2, 144, 96, torch.float32) / (144 * 96 * 2) < 0.147


def test_rates_are_rounded_up_and_an_empty_tensor_has_none():
    assert true_millibits(BITS2, 144, 96, torch.float32) == 2165
    assert true_millibits(RAW, 144, 96, torch.bfloat16) == 16024
    assert true_millibits(BITS2, 0, 96, torch.float32) == 0


@pytest.mark.parametrize("shape", [(-1, 4), (4, -1), (2**31, 1)])
def test_impossible_shapes_have_no_size(shape):
    with pytest.raises(TensorError, match="expected 0 to"):
        frame_bytes(BITS2, *shape, torch.float32)


def test_unknown_dtypes_have_no_size():
    with pytest.raises(TensorError, match="float64"):
        frame_bytes(BITS2, 4, 4, torch.float64)


@pytest.mark.parametrize("rung", CODED, ids=lambda rung: rung.name)
def test_a_rung_loses_what_the_allocator_believes(rung):
    x = torch.randn(256, 96, generator=torch.Generator().manual_seed(1))
    lost = x - through(rung, x)
    assert float(lost.square().sum() / x.square().sum()) == pytest.approx(rung.distortion, rel=0.08)


@pytest.mark.parametrize("rung", CODED, ids=lambda rung: rung.name)
@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_stay_zeros(rung, dtype):
    x = torch.zeros(9, 7)
    assert not bool(through(rung, x, dtype).any())


@pytest.mark.parametrize("rung", CODED, ids=lambda rung: rung.name)
def test_scales_follow_rows(rung):
    x = torch.randn(64, 96, generator=torch.Generator().manual_seed(1))
    gain = 2.0 ** torch.arange(64)[:, None].remainder(8)
    lost = (x * gain - through(rung, x * gain)) / gain
    assert float(lost.square().sum() / x.square().sum()) < 1.5 * rung.distortion + 1e-5
