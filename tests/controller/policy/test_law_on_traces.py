"""The law and the estimator on made-up links, against what an oracle that knows the trace would do."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from bench.simulator.job import Delivery
from tests.controller.policy.simulator import LADDER, OFF_MILLIBITS, Job, Link, Trace, limits, simulate
from thinwire.controller.policy import tuner
from thinwire.controller.policy.law import AS_SHORT
from thinwire.controller.policy.reports import Rung, Step

FAST, SLOW = Link(500e6, 2e-4), Link(50e6, 2e-4)
NOISES = (0.0, 0.1, 0.2)


def oracle_millibits(link: Link, *, compute_seconds: float = 0.25, values: int = 1_500_000, exchanges: int = 60) -> int:
    """What the law's own rule picks when everything is known exactly."""

    def stall(rung: Rung) -> float:
        codec = values * rung.codec_seconds_per_value
        return exchanges * link.latency_seconds + values * rung.millibits / 8000 / link.bytes_per_second + codec

    useful = [rung for rung in LADDER if rung.name != "raw"]
    fitting = [rung for rung in useful if stall(rung) <= 0.15 * compute_seconds]
    if fitting:
        return fitting[0].millibits
    shortest = compute_seconds + min(map(stall, useful))
    return next(rung.millibits for rung in useful if compute_seconds + stall(rung) <= AS_SHORT * shortest)


def steady(link: Link) -> Trace:
    return lambda step: link


def drop(at: int, back_at: int, before: Link = FAST, after: Link = SLOW) -> Trace:
    return lambda step: after if at <= step < back_at else before


def rate(run: Job, step: int) -> int:
    return run.rates[step]["intra-node"]


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("megabytes", [2, 5, 10, 20, 50, 100, 1000])
def test_on_a_steady_link_it_settles_and_steps_within_five_percent_of_the_best_rung(megabytes: int, noise: float):
    link = Link(megabytes * 1e6, 2e-4)
    run = simulate(steady(link), steps=150, noise=noise)
    best = simulate(steady(link), steps=150, noise=noise, adaptive=False, first_millibits=oracle_millibits(link))
    assert sum(run.step_seconds[56:]) <= 1.05 * sum(best.step_seconds[56:])
    assert run.switches_between(28, 150) <= (1 if noise < 0.2 else 2)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("at", [58, 61, 64, 70, 76])
def test_after_a_tenfold_drop_the_new_rate_holds_within_three_steps_by_one_switch(at: int, noise: float):
    run = simulate(drop(at, 1000), steps=112, noise=noise)
    assert rate(run, at) == OFF_MILLIBITS
    assert rate(run, at + 3) < OFF_MILLIBITS
    assert run.switches_between(at, at + 8) == 1


@pytest.mark.parametrize("at", range(56, 84))
def test_a_drop_at_any_step_of_a_prompt_is_answered_by_one_switch(at: int):
    run = simulate(drop(at, 1000), steps=140)
    assert run.switches_between(at, 140) == 1
    assert rate(run, 139) == oracle_millibits(SLOW)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("back_at", [112, 120, 130])
def test_the_rate_rises_again_after_the_recovery(back_at: int, noise: float):
    run = simulate(drop(60, back_at), steps=224, noise=noise)
    assert rate(run, back_at - 1) < OFF_MILLIBITS
    assert rate(run, 200) == OFF_MILLIBITS
    assert run.switches_between(back_at, 224) <= 2


def test_a_recovery_that_key_frames_alone_can_show_is_found_at_the_next_prompt():
    thin = Link(10e6, 2e-3)
    run = simulate(drop(60, 126, before=Link(1e9, 2e-3), after=thin), steps=168, compute_seconds=2.0)
    assert rate(run, 125) < OFF_MILLIBITS
    assert rate(run, 160) == OFF_MILLIBITS


@pytest.mark.parametrize("noise", NOISES)
def test_on_a_fast_link_it_gets_out_of_the_way_and_says_why(noise: float):
    run = simulate(steady(Link(2e9, 1e-4)), first_millibits=2200, noise=noise)
    assert rate(run, 199) == OFF_MILLIBITS
    assert len(run.switches) == 1
    assert "bits2 stalls" in run.switches[0].reason
    assert "bits2 -> off" in run.switches[0].reason


def test_where_nothing_can_be_won_it_stays_off():
    run = simulate(steady(Link(5e9, 4e-3)), steps=150)
    assert rate(run, 149) == OFF_MILLIBITS


@pytest.mark.parametrize("noise", NOISES)
def test_a_ramp_is_followed_downwards_only(noise: float):
    run = simulate(lambda step: Link(500e6 * 10 ** (-min(max(step - 20, 0), 100) / 50), 2e-4), noise=noise, steps=140)
    rates = [rate(run, step) for step in range(140)]
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates))
    assert len(run.switches) <= 6


@pytest.mark.parametrize("noise", NOISES)
def test_a_burst_of_one_step_moves_nothing(noise: float):
    run = simulate(lambda step: Link(20e6, 2e-4) if step % 17 == 9 else FAST, noise=noise, steps=200)
    assert run.switches == []


@pytest.mark.parametrize("period", [6, 20, 40, 90])
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("seed", range(3))
def test_a_saw_tooth_does_not_make_the_rate_flap(period: int, noise: float, seed: int):
    run = simulate(
        lambda step: Link(500e6 / (1 + 20 * (step % period) / period), 2e-4), noise=noise, steps=360, seed=seed
    )
    assert len(run.switches) <= 16
    assert run.switches_between(180, 360) <= 9


@pytest.mark.parametrize("noise", NOISES)
def test_a_link_that_goes_up_and_down_is_left_at_the_safe_rate_ever_longer(noise: float):
    run = simulate(lambda step: SLOW if step // 14 % 2 else FAST, noise=noise, steps=600)
    assert run.switches_between(300, 600) <= 0.5 * run.switches_between(0, 300)


def test_a_slow_link_class_does_not_drag_the_other_one_down():
    run = simulate({"inter-node": steady(Link(5e6, 1e-4)), "intra-node": steady(Link(4e9, 1e-5))}, steps=112)
    assert run.rates[-1]["intra-node"] == OFF_MILLIBITS
    assert run.rates[-1]["inter-node"] < OFF_MILLIBITS


def test_a_drop_of_one_link_class_leaves_the_other_one_alone():
    run = simulate({"inter-node": drop(60, 1000), "intra-node": steady(Link(4e9, 1e-5))}, steps=112)
    assert {switch.link_class for switch in run.switches} == {"inter-node"}


@pytest.mark.parametrize("megabytes", [1, 5, 20])
@pytest.mark.parametrize("near_megabytes", [200, 260, 300, 400, 1000])
def test_a_straggler_does_not_take_the_budget_of_the_other_link_class(near_megabytes: int, megabytes: int):
    near, far = Link(near_megabytes * 1e6, 1e-5), Link(800e6, 1e-5)
    quiet = simulate({"inter-node": steady(far), "intra-node": steady(near)}, steps=168, noise=0.05)
    straggling = drop(60, 1000, before=far, after=Link(megabytes * 1e6, 1e-5))
    beside = simulate({"inter-node": straggling, "intra-node": steady(near)}, steps=168, noise=0.05)
    assert [rates["intra-node"] for rates in beside.rates] == [rates["intra-node"] for rates in quiet.rates]
    assert beside.rates[-1]["inter-node"] < quiet.rates[-1]["inter-node"]


def test_beside_a_lasting_straggler_a_link_class_still_rises_after_its_own_recovery():
    traces = {"inter-node": steady(Link(2e6, 1e-4)), "intra-node": drop(60, 100, before=Link(4e9, 1e-5), after=SLOW)}
    rates = [rates["intra-node"] for rates in simulate(traces, steps=168, noise=0.05).rates]
    assert rates[59] == OFF_MILLIBITS
    assert rates[90] < OFF_MILLIBITS
    assert rates[160] == OFF_MILLIBITS


def test_a_rung_above_the_error_ceiling_is_left_and_not_chosen_again():
    run = simulate(
        steady(Link(5e6, 1e-4)),
        steps=84,
        max_relative_error_milli=100,
        error_at=lambda rung: 0.3 if rung.millibits < 3000 else 0.01,
    )
    seen = [rate(run, step) for step in range(84)]
    first = next(step for step in range(84) if seen[step] < 3000)
    assert all(millibits < 3000 for millibits in seen[first : first + 2])
    assert all(millibits == 3200 for millibits in seen[first + 3 : first + 50])


def test_limits_of_the_owner_hold_whatever_the_link_does():
    run = simulate(drop(40, 80, before=Link(5e9), after=Link(1e6)), min_millibits=2000, max_millibits=4000)
    assert {millibits for rates in run.rates[10:] for millibits in rates.values()} <= {4200, 3200, 2200}


def test_a_fixed_rate_is_never_touched():
    run = simulate(drop(40, 80), adaptive=False, first_millibits=3200)
    assert run.switches == []


def test_lost_directives_are_sent_again():
    run = simulate(steady(SLOW), steps=56, delivery=Delivery(directive_lost=lambda step: step < 12))
    assert rate(run, 11) == OFF_MILLIBITS
    assert rate(run, 20) < OFF_MILLIBITS
    assert len(run.switches) == 1


def test_no_rate_changes_in_warm_up_or_in_the_last_steps_of_a_prompt():
    for at in range(56, 84):
        run = simulate(drop(at, 1000), steps=112, warmup_steps=4)
        assert all(4 <= switch.step % 28 < 26 for switch in run.switches)


def poisoned(step: Step) -> list[Step]:
    bad = float("nan")
    window = step.windows[0]
    return [
        replace(step, windows=(replace(window, sum_seconds=bad),)),
        replace(step, windows=(replace(window, sum_bytes=-1.0),)),
        replace(step, windows=(replace(window, sum_seconds=1e300),)),
        replace(step, windows=(replace(window, count=0),)),
        replace(step, compute_seconds=float("inf")),
        replace(step, step_seconds=-1.0),
        replace(step, windows=(window, window)),
        step,
        step,
        replace(step, job_step=step.job_step - 1),
    ]


def test_reports_that_cannot_be_believed_leave_the_law_unmoved():
    clean = simulate(drop(60, 112), noise=0.1)
    spoiled = simulate(drop(60, 112), noise=0.1, spoil=poisoned)
    assert spoiled.rates == clean.rates
    assert spoiled.switches == clean.switches


def test_a_controller_that_begins_anew_changes_nothing_while_the_rate_is_right():
    settled = simulate(steady(SLOW), steps=56)
    again = tuner.begin(LADDER, limits(), (("intra-node", rate(settled, 55)),), settled.tuner.epoch)
    assert all(link.memory.decided for link in again.links)
