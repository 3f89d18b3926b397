"""The simulator's own books, and what the law must show against the oracle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.simulate import main
from bench.simulator.compare import Outcome, compare
from bench.simulator.job import LADDER, STEPS_PER_PROMPT
from bench.simulator.oracle import best_rates
from bench.simulator.scenarios import Scenario, scenarios
from bench.simulator.uplink import share

ALL = {scenario.name: scenario for scenario in scenarios()}
STEADY = [scenario for scenario in ALL.values() if scenario.is_steady and "recorded" not in scenario.name]
DROPS = ("step, tenfold drop for 4.5 prompts", "straggler: inter-node of two classes")


@pytest.mark.parametrize("scenario", STEADY, ids=lambda scenario: scenario.name)
def test_on_a_steady_link_regret_is_below_five_percent_and_the_rate_stays(scenario: Scenario):
    for seed in range(2):
        outcome = compare(scenario, seed)
        assert outcome.regret <= 0.05
        assert len(outcome.switches) <= 3


@pytest.mark.parametrize("name", DROPS)
def test_a_tenfold_drop_is_answered_after_three_steps_by_one_switch(name: str):
    scenario = ALL[name]
    for seed in range(3):
        outcome = compare(scenario, seed)
        assert outcome.steps_to_adapt == 3
        assert sum(70 <= int(str(switch["step"])) < 190 for switch in outcome.switches) == 1


def test_a_straggler_leaves_the_other_link_class_where_it_was():
    outcome = compare(ALL["straggler: inter-node of two classes"], 0)
    assert set(outcome.law_rates["intra-node"]) == {32000}
    assert min(outcome.law_rates["inter-node"]) < 32000


def test_a_controller_that_is_away_changes_nothing_but_how_fresh_the_rate_is():
    outcome = compare(ALL["controller away for 60 steps"], 0)
    assert set(outcome.law_rates["intra-node"][60:120]) == {32000}
    assert outcome.law_rates["intra-node"][140] < 32000


def test_on_a_steady_link_the_oracle_is_a_fixed_rung_within_the_target_of_the_shortest():
    for scenario in (ALL["steady, 2 MB/s"], ALL["steady, 100 MB/s"]):
        links = {name: trace(0) for name, trace in scenario.traces.items()}
        best = best_rates(links, scenario.traffic, 0.25, 0.15)
        outcome = compare(scenario, 0, noise=0.0)
        name = next(rung.name for rung in LADDER if rung.millibits == best["intra-node"])
        shortest = min(outcome.fixed_seconds.values())
        assert outcome.fixed_seconds[name] <= 1.15 * shortest
        assert sum(outcome.oracle_seconds) == pytest.approx(outcome.fixed_seconds[name])


def test_regret_counts_slower_steps_only_and_leaves_the_first_prompt_out():
    later = [1.0] * 10
    outcome = Outcome(
        seed=0,
        law_rates={"x": [4000] * 38},
        oracle_rates={"x": [8000] * 38},
        law_seconds=[9.0] * STEPS_PER_PROMPT + [1.5] * 5 + [0.5] * 5,
        oracle_seconds=[1.0] * STEPS_PER_PROMPT + later,
        fixed_seconds={},
        switches=[],
        drops_at=None,
    )
    assert outcome.regret == pytest.approx(0.25)
    assert outcome.step_time_ratio == pytest.approx(1.0)
    assert outcome.bits_given_away == pytest.approx(0.5)


def test_jobs_that_share_an_uplink_carry_no_more_than_it_does():
    heard: list[int] = []
    off = LADDER[0]
    shared = share(4, STEPS_PER_PROMPT + 10, 20e6, fixed=off, told=heard.append)
    size = 1_500_000 * off.millibits / 8000
    assert shared.mean_step_seconds >= 4 * size / 20e6 * 0.9
    assert heard == list(range(1, 4 * (STEPS_PER_PROMPT + 10) + 1))


def test_the_command_writes_raw_figures_that_name_where_they_are_from(tmp_path: Path):
    file = tmp_path / "simulate.json"
    assert main(["--only", "app-limited", "--seeds", "1", "--jobs", "2", "--output", str(file)]) == 0
    result = json.loads(file.read_text())
    assert {"commit", "machine", "command"} <= result["about"].keys()
    assert result["scenarios"][0]["seeds"][0]["switches"] == []
    assert result["shared"]["jobs"] == 2
