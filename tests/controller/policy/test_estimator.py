from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.controller.policy.estimator import LinkEstimate, introduced, observe
from thinwire.controller.policy.reports import Window, refusal_of_window

WHOLE, CODED = 120_000.0, 8_000.0


def window(size: float, alpha: float, beta: float, *, count: int = 24, noise: float = 1.0) -> Window:
    seconds = count * (alpha + size / beta) * noise
    return Window("intra-node", "ring.all_gather", count, count * size, seconds)


def prompts(alpha: float, beta: float, number: int = 2, *, noise: float = 0.0, seed: int = 0) -> list[Window]:
    """Prompts of 28 steps, two of them key frames."""
    chance = random.Random(seed)
    return [
        window(WHOLE if step < 2 else CODED, alpha, beta, noise=1 + noise * chance.uniform(-1, 1))
        for _ in range(number)
        for step in range(28)
    ]


def after(windows: list[Window], estimate: LinkEstimate | None = None) -> LinkEstimate:
    estimate = estimate or LinkEstimate()
    for one in windows:
        estimate = observe(estimate, one)
    return estimate


@pytest.mark.parametrize("alpha", [0.0, 1e-4, 1e-3, 5e-3])
@pytest.mark.parametrize("beta", [1e6, 5e6, 50e6, 500e6])
def test_key_frames_beside_coded_steps_part_alpha_from_beta(alpha: float, beta: float):
    estimate = after(prompts(alpha, beta))
    assert estimate.alpha_seconds == pytest.approx(alpha, rel=0.05, abs=1e-6)
    assert estimate.bytes_per_second == pytest.approx(beta, rel=0.1)


@pytest.mark.parametrize("beta", [1e6, 5e6, 50e6])
def test_under_noise_the_throughput_stays_within_a_fifth(beta: float):
    estimate = after(prompts(2e-4, beta, number=4, noise=0.1))
    assert estimate.bytes_per_second == pytest.approx(beta, rel=0.2)


def test_several_sizes_in_one_window_part_them_too():
    sizes = [CODED] * 12 + [WHOLE] * 12
    seconds = [1e-3 + size / 20e6 for size in sizes]
    mixed = Window(
        "intra-node",
        "ulysses.all_to_all",
        24,
        sum(sizes),
        sum(seconds),
        sum(size * size for size in sizes),
        sum(size * took for size, took in zip(sizes, seconds, strict=True)),
    )
    estimate = after([mixed, mixed])
    assert estimate.alpha_seconds == pytest.approx(1e-3, rel=0.01)
    assert estimate.bytes_per_second == pytest.approx(20e6, rel=0.01)


@pytest.mark.parametrize("factor", [10.0, 3.0])
def test_a_faster_link_is_believed_at_once(factor: float):
    before = after(prompts(1e-4, 50e6) + [window(WHOLE, 1e-4, 50e6)] * 4)
    assert after([window(WHOLE, 1e-4, 50e6 * factor)], before).bytes_per_second == pytest.approx(50e6 * factor, rel=0.1)


@pytest.mark.parametrize("alpha", [1e-4, 1e-3, 5e-3, 15e-3])
def test_one_key_frame_shows_a_recovery_that_small_frames_cannot(alpha: float):
    slow = after([*prompts(alpha, 2.5e6), *[window(2_000.0, alpha, 2.5e6)] * 30])
    recovered = after([window(2_000.0, alpha, 250e6)] * 10 + [window(WHOLE, alpha, 250e6)], slow)
    assert recovered.bytes_per_second > 25e6


@pytest.mark.parametrize("size", [500.0, 1_400.0])
@pytest.mark.parametrize("waiting_seconds", [-1.6e-3, 0.0, 9e-3])
def test_frames_of_one_packet_tell_nothing_of_a_link_s_rate(size: float, waiting_seconds: float):
    before = after(prompts(2e-4, 1e6))
    each_seconds = 2e-4 + max(0.0, size / 1e6 + waiting_seconds)
    estimate = after([Window("inter-node", "ring.all_gather", 24, 24 * size, 24 * each_seconds)] * 20, before)
    assert estimate.bytes_per_second == pytest.approx(1e6, rel=0.1)
    assert after([window(WHOLE, 2e-4, 10e6)], estimate).bytes_per_second == pytest.approx(10e6, rel=0.1)


def test_small_frames_in_a_moment_that_is_quieter_than_before_make_no_faster_link():
    busy = after(prompts(1e-3, 20e6))
    quiet = after([window(CODED, 4e-4, 20e6)] * 6, busy)
    assert quiet.bytes_per_second < 2 * 20e6
    assert after(prompts(4e-4, 20e6, number=1), quiet).bytes_per_second == pytest.approx(20e6, rel=0.1)


def test_small_frames_that_wait_longer_make_no_slower_link():
    busy = after([window(CODED, 7e-4, 20e6)] * 20, after(prompts(4e-4, 20e6)))
    assert busy.bytes_per_second == pytest.approx(20e6, rel=0.1)
    assert busy.alpha_seconds == pytest.approx(7e-4, rel=0.1)


def test_small_frames_confirm_the_slower_link_that_a_key_frame_has_shown():
    before = after(prompts(1e-3, 50e6))
    shown = after([window(WHOLE, 1e-3, 5e6)], before)
    assert shown.bytes_per_second == pytest.approx(50e6, rel=0.1)
    assert after([window(CODED, 1e-3, 5e6)], shown).bytes_per_second == pytest.approx(5e6, rel=0.1)


def test_operations_of_one_step_lend_each_other_an_alpha_while_they_have_none():
    ring, ulysses = after([window(WHOLE, 4e-3, 250e6)]), after([window(WHOLE / 4, 4e-3, 250e6)])
    for estimate in introduced([ring, ulysses]):
        assert estimate.alpha_seconds == pytest.approx(4e-3)
        assert estimate.bytes_per_second == pytest.approx(250e6)


@pytest.mark.parametrize("factor", [1 / 3.0, 1 / 10.0])
def test_a_slower_link_is_believed_after_two_windows(factor: float):
    before = after(prompts(1e-4, 50e6) + [window(WHOLE, 1e-4, 50e6)] * 4)
    changed = [window(WHOLE, 1e-4, 50e6 * factor)]
    once = after(changed, before)
    assert once.bytes_per_second == pytest.approx(50e6, rel=0.1)
    assert once.lately.bytes_per_second == pytest.approx(50e6 * factor, rel=0.1)
    assert after(changed, once).bytes_per_second == pytest.approx(50e6 * factor, rel=0.1)


def test_one_odd_window_is_forgotten():
    before = after(prompts(1e-4, 50e6) + [window(WHOLE, 1e-4, 50e6)] * 4)
    odd = after([window(WHOLE, 1e-4, 2e6), window(WHOLE, 1e-4, 50e6)], before)
    assert odd.bytes_per_second == pytest.approx(50e6, rel=0.05)
    assert odd.careful.bytes_per_second == pytest.approx(50e6, rel=0.1)


def test_windows_that_are_mostly_alpha_never_lower_beta():
    estimate = after(prompts(5e-3, 100e6))
    slower = after([window(CODED, 8e-3, 100e6)] * 20, estimate)
    assert slower.bytes_per_second >= 0.99 * estimate.bytes_per_second
    assert slower.alpha_seconds > estimate.alpha_seconds


def test_a_drop_that_whole_frames_show_is_seen_though_all_before_was_mostly_alpha():
    estimate = after([window(WHOLE, 2e-3, 100e6)] * 10 + [window(CODED, 2e-3, 100e6)] * 10)
    dropped = after([window(WHOLE, 2e-3, 5e6)] * 2, estimate)
    assert dropped.bytes_per_second == pytest.approx(5e6, rel=0.1)


def test_the_careful_view_divides_by_the_largest_recent_error():
    steady = after(prompts(1e-4, 5e6))
    shaken = after([window(CODED, 1e-4, 5e6, noise=1.25)], steady)
    assert max(shaken.errors) == pytest.approx(0.2, abs=0.02)
    assert shaken.careful.bytes_per_second == pytest.approx(shaken.bytes_per_second / 1.2, rel=0.02)


def test_while_no_size_has_changed_the_careful_view_allows_for_some_alpha():
    unknown = after([window(WHOLE, 1e-3, 50e6)] * 3)
    assert unknown.plain.alpha_seconds == 0
    assert 0 < unknown.careful.alpha_seconds < unknown.latest.mean_seconds / 5  # type: ignore[union-attr]


figures = st.floats(allow_nan=True, allow_infinity=True)
believable = st.builds(
    Window,
    link_class=st.just("intra-node"),
    operation=st.just("ring.all_gather"),
    count=st.integers(1, 10_000),
    sum_bytes=st.floats(1, 1e15),
    sum_seconds=st.floats(1e-4, 8e4),
    values=st.integers(0, 2**40),
)


@given(st.lists(believable, min_size=1, max_size=40))
def test_whatever_is_believed_the_estimate_stays_finite_and_positive(windows: list[Window]):
    estimate = LinkEstimate()
    for one in windows:
        if refusal_of_window(one) is None:
            estimate = observe(estimate, one)
    if estimate.known:
        for line in (estimate.plain, estimate.careful, estimate.lately):
            assert 0 < line.bytes_per_second < math.inf
            assert 0 <= line.alpha_seconds < math.inf


@given(
    st.builds(
        Window,
        link_class=st.just("x"),
        operation=st.just("y"),
        count=st.integers(-(2**63), 2**63 - 1),
        sum_bytes=figures,
        sum_seconds=figures,
        sum_bytes_squared=figures,
        sum_bytes_seconds=figures,
        encode_seconds=figures,
        decode_seconds=figures,
        values=st.integers(-(2**63), 2**63 - 1),
    )
)
def test_what_is_not_believed_is_named_and_what_is_can_be_taken_in(drawn: Window):
    if refusal_of_window(drawn) is None:
        assert observe(LinkEstimate(), drawn).known
