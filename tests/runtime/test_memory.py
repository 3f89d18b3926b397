import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.compression import BaseFormat
from thinwire.runtime.errors import BadInputError
from thinwire.runtime.memory import plan_bases, require_a_layer

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


def test_a_budget_too_small_for_any_layer_is_refused_with_the_least_that_would_do() -> None:
    layer = {BaseFormat.FULL: 9 << 20, BaseFormat.INT8: (3 << 20) + 1}
    require_a_layer(plan_bases(layer, 6, 4 << 20), 6, layer, {}, 4)
    with pytest.raises(
        BadInputError, match="baseMemoryMebibytes: expected at least 4 for the bases of one layer, got 3"
    ):
        require_a_layer(plan_bases(layer, 6, 3 << 20), 6, layer, {}, 3)


def test_a_model_without_coded_layers_needs_no_room() -> None:
    nothing = {BaseFormat.FULL: 0, BaseFormat.INT8: 0}
    require_a_layer(plan_bases(nothing, 0, 1 << 20), 0, nothing, {}, 1)


@given(full=st.integers(2, 10**9), layers=st.integers(1, 100), budget=st.integers(1, 10**12))
def test_the_bases_always_fit(full: int, layers: int, budget: int) -> None:
    plan = plan_bases({BaseFormat.FULL: full, BaseFormat.INT8: full // 2}, layers, budget)
    assert plan.base_bytes <= budget
    assert len(plan.raw_layers) <= layers
