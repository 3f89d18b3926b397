"""The estimator on links that the kernel shapes: the real wire between ranks that do not arrive together."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from datetime import timedelta

import numpy
import pytest
import torch
import torch.distributed as dist

from tests.harness.ranks import run_ranks
from tests.harness.windows import window_of
from tests.netlab.lab import INTERFACE, Lab
from tests.netlab.namespaces import enter
from thinwire.controller.policy.estimator import LinkEstimate, observe
from thinwire.controller.policy.reports import refusal_of_window
from thinwire.runtime.exchange.meter import Operation, StepMeter
from thinwire.runtime.exchange.moment import Moment
from thinwire.runtime.exchange.pacing import Pacer
from thinwire.runtime.exchange.report import RankReport, StepTotals, Vector, transfers_of
from thinwire.runtime.exchange.windows import windows_of
from thinwire.runtime.exchange.wire import Neighbours, Wire
from thinwire.runtime.facts import WindowFacts
from thinwire.runtime.parallel import Launch, LinkClass

pytestmark = [pytest.mark.netlab, pytest.mark.distributed]

EXCHANGES = 6
COMPUTING_SECONDS = 0.006
WITHIN = 0.1
QUIET_MOMENTS = 3
"""Measurements at most: ranks that wait for a busy processor are no slower link, and cannot be told from one here."""
ULYSSES = Operation.ULYSSES


def step_of(wire: Wire, peers: Neighbours, parcel_bytes: int, chance: random.Random) -> Vector:
    """Run a step's exchanges, each after some computing that takes every rank another time; return the transfers."""
    wire.meter.start()
    parcel = torch.zeros(parcel_bytes, dtype=torch.uint8)
    for number in range(EXCHANGES):
        time.sleep(COMPUTING_SECONDS * chance.uniform(0.5, 1.5))  # stands for computing; nobody waits for it
        if number % 2:
            wire.all_gather(parcel, peers, values=parcel_bytes)
        else:
            wire.all_to_all(parcel.repeat(peers.size - 1), parcel_bytes, peers, values=parcel_bytes)
    return transfers_of(wire.meter.samples)


def exchange(launch: Launch, namespaces: list[str], sizes: list[int]) -> list[tuple[WindowFacts, ...]]:
    """A step of exchanges for each size between all ranks; rank 0's windows of every step but the first."""
    enter(namespaces[launch.rank])
    os.environ["GLOO_SOCKET_IFNAME"] = INTERFACE
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=launch.init_method,
        rank=launch.rank,
        world_size=launch.world_size,
        timeout=timedelta(seconds=60),
    )
    ranks = tuple(range(launch.world_size))
    peers = Neighbours(dist.group.WORLD, ranks, launch.rank, LinkClass.INTER_NODE)  # type: ignore[arg-type]
    wire = Wire(torch.device("cpu"), Pacer(()), Moment(), StepMeter())
    groups = {operation: [(LinkClass.INTER_NODE, ranks)] for operation in Operation}
    chance = random.Random(launch.rank)
    windows = []
    for size in sizes:
        transfers: list[Vector] = [numpy.empty(0)] * launch.world_size
        dist.all_gather_object(transfers, step_of(wire, peers, size, chance))
        windows.append(windows_of([report(one) for one in transfers], groups))
    return windows[1:]


def report(transfers: Vector) -> RankReport:
    totals = StepTotals(*[0.0] * len(StepTotals.__dataclass_fields__))
    return RankReport(totals, None, [], [], [0.0] * len(Operation), [0.0] * len(Operation), transfers)


def observed(steps: Sequence[tuple[WindowFacts, ...]]) -> dict[str, LinkEstimate]:
    """What the controller makes of the windows, by operation."""
    estimates: dict[str, LinkEstimate] = {}
    for facts in (facts for step in steps for facts in step):
        window = window_of(facts)
        assert refusal_of_window(window) is None
        estimates[facts.operation] = observe(estimates.get(facts.operation, LinkEstimate()), window)
    return estimates


@pytest.mark.parametrize(("bits_per_second", "ranks"), [(4_000_000, 2), (4_000_000, 3), (20_000_000, 2)])
def test_the_estimate_is_within_a_tenth_of_the_shaped_rate_in_app_limited_windows_too(bits_per_second: int, ranks: int):
    rate = bits_per_second / 8
    key, coded, tiny = (round(size / (ranks - 1)) for size in (rate * 0.1, rate * 0.03, 1_000))
    sizes = [key, key, *[coded] * 8, *[tiny] * 8]
    is_near = False
    for _ in range(QUIET_MOMENTS):
        with Lab(ranks, bits_per_second) as lab:
            names = [lab.namespace(node) for node in range(ranks)]
            before = lab.counters(0)
            steps = run_ranks(ranks, exchange, names, sizes, local_world_size=1, timeout_seconds=240)[0]
            passed = lab.counters(0).since(before)
        assert passed.sent_bytes > EXCHANGES * (ranks - 1) * sum(sizes)
        known = [observed(some)[operation] for some in (steps[:9], steps) for operation in (Operation.RING, ULYSSES)]
        estimates = [estimate.bytes_per_second for estimate in known]
        print(bits_per_second, ranks, [estimate.plain for estimate in known])
        is_near = estimates == pytest.approx([rate] * len(estimates), rel=WITHIN)
        if is_near:
            break
    assert is_near, f"expected {rate:.0f} bytes/s within {WITHIN:.0%}, got {estimates}"
