from __future__ import annotations

from pathlib import Path

from tests.controller.fuzz.attack import attack, target
from tests.controller.fuzz.mutations import Kind, drawn


def test_a_seed_repeats_its_call_and_a_thousand_seeds_have_every_kind():
    calls = [drawn(seed) for seed in range(1000)]
    assert calls == [drawn(seed) for seed in range(1000)]
    assert {call.kind for call in calls} == set(Kind)


def test_a_server_survives_mutated_calls_and_an_honest_rank_is_heard_all_the_while(tmp_path: Path):
    with target(tmp_path) as attacked:
        outcome = attack(attacked, first_seed=0, messages=3_000)
    assert outcome.wrong == []
    assert outcome.read >= 3_000
    assert outcome.calm_steps > 0
    refused = {"FAILED_PRECONDITION", "PERMISSION_DENIED", "UNAUTHENTICATED", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}
    assert refused <= set(outcome.codes)
