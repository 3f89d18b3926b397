"""An oracle that knows every link of every step, applies the law's own rule without delay, and is never wrong."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

from bench.simulator.job import LADDER, Link, Traffic, price
from thinwire.controller.policy.law import AS_SHORT
from thinwire.controller.policy.reports import Rung


def best_rates(
    links: Mapping[str, Link], traffic: tuple[Traffic, ...], compute_seconds: float, stall_share: float
) -> dict[str, int]:
    """Most bits of all rates whose stall fits `stall_share` of computing, or else of those as short as any."""
    useful = [rung for rung in LADDER if rung.name != "raw"]
    stalls = {rates: _stall(rates, links, traffic) for rates in product(useful, repeat=len(links))}
    shortest = compute_seconds + min(stalls.values())
    fitting = [rates for rates, stall in stalls.items() if stall <= stall_share * compute_seconds]
    as_short = [rates for rates, stall in stalls.items() if compute_seconds + stall <= AS_SHORT * shortest]
    best = max(fitting or as_short, key=lambda rates: sum(rung.millibits for rung in rates))
    return {name: rung.millibits for name, rung in zip(links, best, strict=True)}


def _stall(rates: tuple[Rung, ...], links: Mapping[str, Link], traffic: tuple[Traffic, ...]) -> float:
    return price({name: rung.millibits for name, rung in zip(links, rates, strict=True)}, links, traffic).seconds
