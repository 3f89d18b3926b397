from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thinwire.compression.predictor import HISTORY_SUMS, advance, coefficients, predict

CHANNELS = 5


def learned(order, series):
    """Feed a series of bases; return sums and the past deltas, newest first."""
    sums = torch.zeros(HISTORY_SUMS, CHANNELS)
    deltas = tuple(torch.zeros_like(series[0]) for _ in range(order))
    for before, after in pairwise(series):
        delta = after - before
        advance(sums, delta, deltas)
        deltas = (delta, *deltas)[:order]
    return sums, deltas


def test_order_zero_predicts_the_base():
    base = torch.randn(7, CHANNELS)
    assert torch.equal(predict(base, (), torch.zeros(HISTORY_SUMS, CHANNELS)), base)


def test_without_history_the_base_is_predicted():
    base = torch.randn(7, CHANNELS)
    for order in (1, 2):
        deltas = tuple(torch.zeros(7, CHANNELS) for _ in range(order))
        assert torch.equal(predict(base, deltas, torch.zeros(HISTORY_SUMS, CHANNELS)), base)


def test_order_one_damps_a_steady_trend():
    start, trend = torch.randn(7, CHANNELS), torch.randn(7, CHANNELS)
    series = [start + trend * step for step in range(10)]
    sums, _ = learned(1, series)
    (a,) = coefficients(sums, 1)
    assert torch.allclose(a, torch.full_like(a, 0.9), atol=0.01)


def test_order_one_never_follows_a_trend_that_turns():
    start, trend = torch.randn(7, CHANNELS), torch.randn(7, CHANNELS)
    series = [start + trend * (step % 2) for step in range(10)]
    sums, _ = learned(1, series)
    assert torch.equal(coefficients(sums, 1)[0], torch.zeros(CHANNELS))


def test_order_two_follows_a_rotation():
    first, second = torch.randn(70, CHANNELS), torch.randn(70, CHANNELS)
    angles = [torch.tensor(0.3 * step) for step in range(16)]
    series = [first * torch.cos(angle) + second * torch.sin(angle) for angle in angles]
    errors = []
    for order in (0, 1, 2):
        sums, deltas = learned(order, series[:-1])
        errors.append(float((predict(series[-2], deltas, sums) - series[-1]).norm() / (series[-1] - series[-2]).norm()))
    assert errors[0] == pytest.approx(1)
    assert errors[2] < 0.7 * errors[1] < 0.5 * errors[0]


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=30, max_size=30), st.integers(1, 2))
def test_whatever_the_sums_hold_the_coefficients_are_bounded(values, order):
    sums = torch.tensor(values, dtype=torch.float32).view(HISTORY_SUMS, CHANNELS)
    for coefficient, limit in zip(coefficients(sums, order), (2.0, 1.0), strict=False):
        assert bool((coefficient.abs() <= limit).all())
