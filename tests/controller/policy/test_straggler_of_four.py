"""Four nodes of two ranks, one of them behind a slow link: what the ranks measure goes through windows and law."""

from __future__ import annotations

from bench.simulator.job import LADDER, OFF_MILLIBITS, limits, rung_at
from tests.harness.windows import window_of
from thinwire.controller.policy import tuner
from thinwire.controller.policy.reports import Step, Window
from thinwire.runtime.exchange.meter import Operation, Sample
from thinwire.runtime.exchange.report import RankReport, StepTotals, transfers_of
from thinwire.runtime.exchange.windows import windows_of
from thinwire.runtime.parallel import LinkClass

RANKS, EXCHANGES, VALUES = 8, 12, 60_000
COMPUTE_SECONDS, NEAR, FAR, SLOW = 0.25, 4e9, 800e6, 20e6
NODES = [(0, 1), (2, 3), (4, 5), (6, 7)]
RINGS = [(0, 2, 4, 6), (1, 3, 5, 7)]
GROUPS = {
    Operation.ULYSSES: [(LinkClass.INTRA_NODE, ranks) for ranks in NODES],
    Operation.RING: [(LinkClass.INTER_NODE, ranks) for ranks in RINGS],
}


def measured(rates: dict[str, int], inter_bytes_per_second: float) -> tuple[Window, ...]:
    """One step: an exchange between nodes ends for everybody when the slowest link has carried its part."""

    def sample(operation: Operation, link_class: LinkClass, bytes_per_second: float) -> Sample:
        size = VALUES * rates[link_class] // 8000
        seconds = 1e-4 + size / bytes_per_second
        return Sample(operation, link_class, size, VALUES, seconds, seconds)

    samples = [sample(Operation.ULYSSES, LinkClass.INTRA_NODE, NEAR)] * EXCHANGES
    samples += [sample(Operation.RING, LinkClass.INTER_NODE, inter_bytes_per_second)] * EXCHANGES
    nothing = [0.0] * len(Operation)
    totals = StepTotals(*[0.0] * len(StepTotals.__dataclass_fields__))
    reports = [RankReport(totals, None, [], [], nothing, nothing, transfers_of(samples)) for _ in range(RANKS)]
    return tuple(window_of(facts) for facts in windows_of(reports, GROUPS))


def test_one_slow_link_of_four_lowers_the_rate_between_nodes_and_no_other():
    rates = {str(LinkClass.INTRA_NODE): OFF_MILLIBITS, str(LinkClass.INTER_NODE): OFF_MILLIBITS}
    state = tuner.begin(LADDER, limits(target_stall_percent=60), tuple(rates.items()), 0)
    epoch, history = 0, []
    for job_step in range(112):
        windows = measured(rates, SLOW if job_step >= 60 else FAR)
        total = COMPUTE_SECONDS + sum(window.sum_seconds for window in windows)
        step = Step(job_step, job_step % 28, total, COMPUTE_SECONDS, 0.0, epoch, tuple(rates.items()), False, windows)
        state, verdict = tuner.after_step(state, step)
        history.append(dict(rates))
        if verdict.directive is not None:
            epoch, rates = verdict.directive.epoch, dict(verdict.directive.rates)
    assert {one["intra-node"] for one in history} == {OFF_MILLIBITS}
    assert history[60]["inter-node"] == OFF_MILLIBITS
    assert history[64]["inter-node"] == history[-1]["inter-node"]
    assert rung_at(history[-1]["inter-node"]).name != "off"
