from hypothesis import given
from hypothesis import strategies as st

from thinwire.compression import BaseFormat
from thinwire.runtime.memory import plan_bases

LAYER = {BaseFormat.FULL: 400, BaseFormat.INT8: 150}


def test_without_a_budget_every_layer_keeps_full_bases() -> None:
    plan = plan_bases(LAYER, 6, 0)
    assert (plan.base_format, plan.raw_layers, plan.base_bytes) == (BaseFormat.FULL, frozenset(), 2400)


def test_int8_bases_come_first() -> None:
    plan = plan_bases(LAYER, 6, 900)
    assert (plan.base_format, plan.raw_layers, plan.base_bytes) == (BaseFormat.INT8, frozenset(), 900)


def test_then_layers_lose_their_bases_from_the_middle_outwards() -> None:
    plan = plan_bases(LAYER, 6, 600)
    assert (plan.raw_layers, plan.base_bytes) == ({2, 3}, 600)
    assert plan_bases(LAYER, 5, 600).raw_layers == {2}


def test_a_budget_too_small_for_any_layer_leaves_none() -> None:
    plan = plan_bases(LAYER, 6, 149)
    assert (plan.raw_layers, plan.base_bytes) == (frozenset(range(6)), 0)


@given(full=st.integers(2, 10**9), layers=st.integers(1, 100), budget=st.integers(1, 10**12))
def test_the_bases_always_fit(full: int, layers: int, budget: int) -> None:
    plan = plan_bases({BaseFormat.FULL: full, BaseFormat.INT8: full // 2}, layers, budget)
    assert plan.base_bytes <= budget
    assert len(plan.raw_layers) <= layers
