"""The planner's prices, memory and layout are the runtime's: held together over many shapes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thinwire.compression import (
    INT4,
    INT8,
    LADDER,
    RAW,
    Exchange,
    Role,
    Rung,
    choose_kernel,
    frame_bytes,
    rung_named,
)
from thinwire.controller.manifest.job import Parallelism, PatchMode
from thinwire.controller.planner import rungs
from thinwire.controller.planner.layout import Dimension, LinkClass, lay_out
from thinwire.controller.planner.memory import base_memory
from thinwire.controller.planner.traffic import Attention, Flow, traffic_of
from thinwire.runtime.exchange.floors import coded_with
from thinwire.runtime.exchange.rates import TRANSFORMS, RateTable
from thinwire.runtime.exchange.traffic import plan_traffic
from thinwire.runtime.families.family import AttentionShape
from thinwire.runtime.memory import base_bytes, plan_bases
from thinwire.runtime.parallel import Degrees

SIZES = st.integers(1, 3000)


def degrees(ulysses: int = 1, ring: int = 1, pipefusion: int = 1, cfg: int = 1, data: int = 1) -> Parallelism:
    return Parallelism(ulysses, ring, pipefusion, cfg, data, PatchMode.NONE)


@pytest.mark.parametrize(("calibrated", "codecs"), [(False, LADDER), (True, (*LADDER, *TRANSFORMS))])
def test_the_ladder_is_the_codec_s(calibrated: bool, codecs: tuple[Rung, ...]) -> None:
    ours = [(rung.name, rung.millibits, rung.distortion) for rung in rungs.ladder(calibrated=calibrated)]
    theirs = [(rung.name, rung.millibits, rung.distortion) for rung in codecs if rung is not RAW]
    assert ours == sorted(theirs, key=lambda rung: (rung[2], rung[1]))


@given(rows=SIZES, channels=SIZES, dtype=st.sampled_from([torch.float32, torch.bfloat16]))
def test_a_frame_takes_what_the_codec_makes_of_it(rows: int, channels: int, dtype: torch.dtype) -> None:
    theirs = {rung.name: rung for rung in (*LADDER, *TRANSFORMS)}
    for rung in rungs.CALIBRATED_LADDER:
        assert rung.frame_bytes(rows, channels) == frame_bytes(theirs[rung.name], rows, channels, dtype)
        key = INT8 if theirs[rung.name].millibits <= INT4.millibits else RAW
        assert rungs.key_frame_bytes(rung, rows, channels, dtype.itemsize) == frame_bytes(key, rows, channels, dtype)
    assert rungs.raw_frame_bytes(rows, channels, dtype.itemsize) == frame_bytes(RAW, rows, channels, dtype)


@pytest.mark.parametrize("rung", rungs.CALIBRATED_LADDER, ids=lambda rung: rung.name)
def test_what_has_no_basis_is_coded_as_the_ranks_do(rung: rungs.RungPrice) -> None:
    theirs = coded_with(Exchange.PIPEFUSION, Role.HIDDEN, rung_named(rung.name))
    assert rungs.without_basis(rung).name == theirs.name
    picture = coded_with(Exchange.GUIDANCE, Role.OUTPUT, rung_named(rung.name))
    assert rungs.picture_rung(rung).name == picture.name


@st.composite
def splits(draw: st.DrawFn) -> tuple[Attention, AttentionShape, int, int]:
    ulysses, ring = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 2, 3]))
    rows = draw(st.integers(1, 6)) * ulysses * ring
    columns, text, batch = draw(st.integers(1, 20)), draw(st.integers(0, 40)), draw(st.sampled_from([1, 2]))
    heads, head_dim, layers = 4 * draw(st.integers(1, 3)), draw(st.integers(1, 40)), draw(st.integers(1, 5))
    combines = draw(st.booleans())
    latents, varies = 4 * rows * columns, draw(st.booleans())
    attention = Attention(
        layers, batch, rows * columns, text, heads, head_dim, combines, 16, latents, text_varies=varies
    )
    shape = AttentionShape(layers, batch, rows, columns, text, heads, head_dim, 16, 4, text_varies=varies)
    return attention, shape, ulysses, ring


def coded_by(rung: rungs.RungPrice) -> Callable[[Flow], int]:
    return lambda flow: rung.frame_bytes(flow.rows, flow.channels)


@given(split=splits(), order=st.integers(0, 2), budget_mebibytes=st.integers(0, 8))
def test_traffic_and_memory_are_what_the_runtime_plans(
    split: tuple[Attention, AttentionShape, int, int], order: int, budget_mebibytes: int
) -> None:
    attention, shape, ulysses, ring = split
    ours = traffic_of(attention, lay_out(degrees(ulysses, ring), ulysses * ring), 0)
    theirs = plan_traffic(shape, Degrees(ulysses, ring), {}, combines_inputs=attention.combines_inputs)
    (facts,) = theirs.facts() or (None,)
    if facts is None:
        assert ours.flows == ()
        return
    assert ours.values_per_step(LinkClass.INTRA_NODE) == facts.values_per_step
    assert ours.operations_per_step(LinkClass.INTRA_NODE) == facts.operations_per_step
    table = RateTable.of(theirs, torch.float32)
    prices = {rung.name: price for rung, price in table.choices if rung is not None}
    assert prices.items() <= {rung.name: ours.millibits(coded_by(rung)) for rung in rungs.LADDER}.items()
    for rung in rungs.CALIBRATED_LADDER:
        assert ours.millibits(coded_by(rung)) == theirs.millibits(rung_named(rung.name), torch.float32)
    budget = budget_mebibytes << 20
    of_a_layer = base_bytes(theirs.attention_flows, torch.float32, order, choose_kernel("eager"))
    planned = plan_bases(of_a_layer, theirs.layers, budget)
    memory = base_memory(ours, order, budget)
    assert (memory.base_bytes, memory.layers_without) == (planned.base_bytes, len(planned.raw_layers))


@pytest.mark.parametrize(
    ("parallelism", "per_node", "dimension", "groups", "link_class"),
    [
        (degrees(ulysses=2, ring=2), 4, Dimension.ULYSSES, [(0, 1), (2, 3)], LinkClass.INTRA_NODE),
        (degrees(ulysses=2, ring=2), 2, Dimension.RING, [(0, 2), (1, 3)], LinkClass.INTER_NODE),
        (degrees(ring=2, cfg=2), 2, Dimension.CFG, [(0, 2), (1, 3)], LinkClass.INTER_NODE),
        (degrees(ring=2, cfg=2), 2, Dimension.RING, [(0, 1), (2, 3)], LinkClass.INTRA_NODE),
        (degrees(pipefusion=2, data=2), 1, Dimension.DATA, [(0, 2), (1, 3)], LinkClass.INTER_NODE),
    ],
)
def test_groups_lie_as_upstream_lays_them(
    parallelism: Parallelism,
    per_node: int,
    dimension: Dimension,
    groups: list[tuple[int, ...]],
    link_class: LinkClass,
) -> None:
    layout = lay_out(parallelism, per_node)
    assert [group.ranks for group in layout.groups[dimension]] == groups
    assert {group.link_class for group in layout.groups[dimension]} == {link_class}


@given(ulysses=st.integers(1, 4), ring=st.integers(1, 4), cfg=st.integers(1, 2), data=st.integers(1, 3))
def test_every_rank_is_in_one_group_of_every_dimension(ulysses: int, ring: int, cfg: int, data: int) -> None:
    layout = lay_out(degrees(ulysses, ring, 1, cfg, data), 2)
    for groups in layout.groups.values():
        assert sorted(rank for group in groups for rank in group.ranks) == list(range(layout.ranks))
