import pytest

from tests.compression.attacks.mutations import TARGETS, Kind, Target, attack


@pytest.mark.parametrize("seed", range(2 * len(TARGETS)), ids=lambda seed: f"{seed}-{Target.drawn(seed).rung.name}")
def test_no_damaged_frame_is_accepted_crashes_the_receiver_or_moves_its_state(seed):
    outcome = attack(seed, frames=150)
    assert outcome.wrong == []
    assert outcome.frames == 150 == sum(outcome.refusals.values()) + outcome.forged_read
    assert set(outcome.kinds) == set(Kind)


def test_a_seed_repeats_its_attack():
    assert attack(5, frames=40) == attack(5, frames=40)
