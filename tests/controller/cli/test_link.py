from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.controller.cli.errors import Refused
from thinwire.controller.cli.link import parse_link


@pytest.mark.parametrize(
    ("text", "phases"),
    [
        ("400Mbit", [(400_000_000, 0)]),
        ("400Mbit,40Mbit@60,400Mbit@140", [(400_000_000, 0), (40_000_000, 60), (400_000_000, 140)]),
        ("1.5Gbit", [(1_500_000_000, 0)]),
        ("2000bit", [(2_000, 0)]),
        ("64kbit", [(64_000, 0)]),
        ("5MB/s", [(40_000_000, 0)]),
        ("5MB", [(40_000_000, 0)]),
        ("500B/s", [(4_000, 0)]),
        ("0.5GB/s@3", [(4_000_000_000, 3)]),
        ("1Mbit/s", [(1_000_000, 0)]),
        ("1Mbits/s", [(1_000_000, 0)]),
        ("2Gbit, 20Mbit@84", [(2_000_000_000, 0), (20_000_000, 84)]),
    ],
)
def test_rates_are_read_with_their_units_and_steps(text: str, phases: list[tuple[int, int]]):
    assert [(phase.bits_per_second, phase.from_step) for phase in parse_link(text)] == phases


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("", "got ''"),
        ("fast", "got 'fast'"),
        ("400", "got '400'"),
        ("-5Mbit", "got '-5Mbit'"),
        ("0Mbit", "got '0Mbit'"),
        ("1bit", "got '1bit'"),
        ("99999Gbit", "got '99999Gbit'"),
        ("5parsec", "got 'parsec'"),
        ("5mb", "got 'mb'"),
        ("400Mbit@x", "got '400Mbit@x'"),
        ("400Mbit,40Mbit", "got '40Mbit'"),
        ("400Mbit@9,40Mbit@9", "got 9 after 9"),
        ("400Mbit@9,40Mbit@3", "got 3 after 9"),
        ("400Mbit@99999999999", "got 99999999999"),
        ("400Mbit,,40Mbit@5", "got ''"),
        ("nanMbit", "got 'nanMbit'"),
    ],
)
def test_what_is_no_rate_is_refused_with_an_example(text: str, got: str):
    with pytest.raises(Refused) as refused:
        parse_link(text)
    assert got in refused.value.message
    assert "such as 400Mbit,40Mbit@60,400Mbit@140 or 5MB/s" in refused.value.message


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str):
    try:
        phases = parse_link(text)
    except Refused:
        return
    assert all(phase.bits_per_second >= 1000 for phase in phases)
