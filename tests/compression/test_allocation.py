from itertools import pairwise, product

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from thinwire.compression import (
    BITS1,
    BITS2,
    INT4,
    INT8,
    LADDER,
    RAW,
    TERNARY,
    Demand,
    Role,
    RungError,
    allocate,
    mean_millibits,
    predicted_error,
    spread,
    uniform_rung,
)
from thinwire.compression.allocation import hull

demand_lists = st.lists(
    st.tuples(st.integers(1, 4), st.sampled_from([0.0, 0.5, 1.0, 3.0, 7.5, 40.0])), min_size=1, max_size=4
).map(
    lambda pairs: [
        Demand(layer, Role.KEY, values=100 * values, sensitivity=weight) for layer, (values, weight) in enumerate(pairs)
    ]
)
budgets = st.integers(1_000, 17_000)


def best_by_brute_force(budget, demands):
    best = float("inf")
    values = sum(demand.values for demand in demands)
    for choice in product(LADDER, repeat=len(demands)):
        allocation = {demand.place: rung for demand, rung in zip(demands, choice, strict=True)}
        spent = sum(demand.values * allocation[demand.place].millibits for demand in demands)
        if spent <= budget * values:
            best = min(best, predicted_error(allocation, demands))
    return best


@settings(max_examples=60)
@given(budgets, demand_lists)
def test_an_allocation_stays_within_its_budget_and_at_most_one_step_from_the_best(budget, demands):
    allocation = allocate(budget, demands)
    assert mean_millibits(allocation, demands) <= budget
    error = predicted_error(allocation, demands)
    best = best_by_brute_force(budget, demands)
    step = max(demand.values * demand.sensitivity for demand in demands) * LADDER[-1].distortion
    assert best <= error + 1e-12
    assert error <= best + step + 1e-12


@settings(max_examples=60)
@given(budgets, demand_lists)
def test_what_an_allocation_spends_cannot_be_spent_better_on_the_hull(budget, demands):
    """At a budget that the hull reaches, no choice whatever of rungs has less error."""
    equal = [Demand(d.layer, d.role, values=100, sensitivity=d.sensitivity) for d in demands]
    rungs = hull(LADDER)
    order = sorted(
        (
            (-d.sensitivity * (low.distortion - high.distortion) / (high.millibits - low.millibits), d.layer, high)
            for d in equal
            for low, high in pairwise(rungs)
        ),
        key=lambda step: step[:2],
    )
    chosen = {d.place: rungs[0] for d in equal}
    for _, layer, high in order:
        trial = chosen | {(layer, Role.KEY): high}
        if sum(rung.millibits for rung in trial.values()) > budget * len(equal):
            break
        chosen = trial
    reached = sum(rung.millibits for rung in chosen.values())
    assume(reached % len(equal) == 0)
    allocation = allocate(reached // len(equal), equal)
    assert predicted_error(allocation, equal) == pytest.approx(best_by_brute_force(reached // len(equal), equal))


def test_the_sensitive_layer_gets_the_bits():
    demands = [Demand(layer, Role.KEY, 100, sensitivity) for layer, sensitivity in enumerate((1.0, 50.0, 1.0, 0.02))]
    allocation = allocate(2_000, demands)
    rates = [allocation[demand.place].millibits for demand in demands]
    assert max(rates) == rates[1]
    assert min(rates) == rates[3]
    assert mean_millibits(allocation, demands) <= 2_000


@given(budgets, st.lists(st.integers(1, 500), max_size=20))
def test_an_even_spread_never_exceeds_its_budget_and_wastes_less_than_one_step(budget, sizes):
    demands = [Demand(layer, Role.VALUE, values) for layer, values in enumerate(sizes)]
    allocation = spread(budget, demands)
    for count in range(1, len(demands) + 1):
        assert mean_millibits(allocation, demands[:count]) <= budget
    if demands and budget < RAW.millibits:
        values = sum(sizes)
        assert budget * values - mean_millibits(allocation, demands) * values <= 8_000 * max(sizes)


def test_an_even_spread_mixes_neighbours():
    demands = [Demand(layer, Role.KEY, 10) for layer in range(8)]
    rungs = list(spread(1_300, demands).values())
    assert set(rungs) == {BITS1, TERNARY}
    assert rungs.count(TERNARY) == 4


@pytest.mark.parametrize(
    ("budget", "rung"), [(1_000, BITS1), (1_599, BITS1), (2_000, BITS2), (7_999, INT4), (8_000, INT8), (99_999, RAW)]
)
def test_a_uniform_rate_is_the_finest_rung_within_it(budget, rung):
    assert uniform_rung(budget) is rung


@pytest.mark.parametrize("assign", [lambda: uniform_rung(999), lambda: allocate(999, []), lambda: spread(0, [])])
def test_a_budget_below_the_ladder_is_refused(assign):
    with pytest.raises(RungError, match=r"expected at least 1000 \(bits1\)"):
        assign()


def test_an_empty_ladder_is_refused():
    with pytest.raises(RungError, match="at least one rung"):
        allocate(2_000, [], ladder=())


def test_one_place_has_one_demand():
    with pytest.raises(ValueError, match="some twice"):
        allocate(2_000, [Demand(0, Role.KEY, 1), Demand(0, Role.KEY, 2)])


@pytest.mark.parametrize(
    ("values", "sensitivity"), [(0, 1.0), (-3, 1.0), (5, -1.0), (5, float("nan")), (5, float("inf"))]
)
def test_a_demand_must_make_sense(values, sensitivity):
    with pytest.raises(ValueError, match="layer 2, KEY"):
        Demand(2, Role.KEY, values, sensitivity)
