"""What ranks tell each other arrives as it was, and windows are made of it as the law expects."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.runtime.exchange.meter import Operation, Sample, StepMeter
from thinwire.runtime.exchange.report import RankReport, StepTotals, count_mismatches
from thinwire.runtime.exchange.windows import windows_of
from thinwire.runtime.facts import Directive
from thinwire.runtime.parallel import LinkClass

INTRA, INTER = LinkClass.INTRA_NODE, LinkClass.INTER_NODE
counts = st.integers(0, 2**50).map(float)
seconds = st.floats(0, 1e6)
directives = st.none() | st.builds(
    Directive,
    epoch=st.integers(1, 2**50),
    rates=st.dictionaries(st.sampled_from([str(link) for link in LinkClass]), st.integers(0, 64_000)),
)


@given(
    world_size=st.integers(1, 8),
    numbers=st.lists(seconds, min_size=9, max_size=9),
    directive=directives,
    durations=st.lists(seconds, max_size=50),
    checksum=counts,
)
def test_a_report_arrives_as_it_was(
    world_size: int, numbers: list[float], directive: Directive | None, durations: list[float], checksum: float
) -> None:
    report = RankReport(
        totals=StepTotals(*numbers),
        directive=directive,
        sent_checksums=[checksum] * world_size,
        heard_checksums=[checksum + 1] * world_size,
        encode_seconds=[0.5, 0.25],
        decode_seconds=[0.125, 1.0],
        durations=durations,
    )
    assert RankReport.from_vector(report.to_vector(), world_size) == report


def report(
    durations: list[float], encode: tuple[float, float] = (0, 0), sent: tuple[int, int] = (0, 0),
    heard: tuple[int, int] = (0, 0),
) -> RankReport:  # fmt: skip
    meter = StepMeter()
    meter.start()
    return RankReport(StepTotals.measured(meter, 1.0, 0), None, sent, heard, encode, (0, 0), durations)


def test_pairs_of_ranks_whose_bases_differ_are_counted() -> None:
    assert count_mismatches([report([], sent=(0, 5)), report([], heard=(5, 0))]) == 0
    assert count_mismatches([report([], sent=(0, 5)), report([], heard=(6, 0))]) == 1
    assert count_mismatches([report([], sent=(0, 5), heard=(0, 1)), report([], sent=(2, 0), heard=(6, 0))]) == 2


def test_computing_is_what_exchanges_and_codec_leave_of_a_step() -> None:
    meter = StepMeter()
    meter.start()
    meter.samples.append(Sample(Operation.RING, INTRA, 10, 20, 0.25))
    meter.encode_seconds[Operation.RING] += 0.125
    meter.decode_seconds[Operation.ULYSSES] += 0.125
    assert StepTotals.measured(meter, 1.0, 7).compute_seconds == 0.5
    assert StepTotals.measured(meter, 0.1, 7).compute_seconds == 0.0


def test_the_last_rank_to_arrive_says_how_long_an_exchange_took() -> None:
    samples = [Sample(Operation.RING, INTER, 100, 50, 9.0), Sample(Operation.ULYSSES, INTRA, 10, 5, 9.0)]
    groups = {
        Operation.RING: [(INTER, (0, 2)), (INTER, (1, 3))],
        Operation.ULYSSES: [(INTRA, (0, 1)), (INTRA, (2, 3))],
    }
    reports = [
        report([3.0, 1.0], encode=(0.1, 0.4)),
        report([4.0, 2.0], encode=(0.2, 0.3)),
        report([1.0, 3.0], encode=(0.3, 0.2)),
        report([5.0, 0.5], encode=(0.4, 0.1)),
    ]
    ring, ulysses = windows_of(samples, reports, groups)
    assert (ring.link_class, ring.operation, ring.count) == ("inter-node", "ring.all_gather", 2)
    assert (ring.min_seconds, ring.max_seconds, ring.sum_seconds) == (1.0, 4.0, 5.0)
    assert (ring.sum_bytes, ring.sum_bytes_squared, ring.sum_bytes_seconds) == (200, 20_000, 500)
    assert (ring.sum_seconds_squared, ring.values, ring.encode_seconds) == (17.0, 100, 0.4)
    assert (ulysses.min_seconds, ulysses.max_seconds, ulysses.count) == (0.5, 1.0, 2)


@given(durations=st.lists(st.lists(st.floats(0.001, 10), min_size=4, max_size=4), min_size=2, max_size=2))
def test_a_window_s_sums_are_those_of_its_exchanges(durations: list[list[float]]) -> None:
    samples = [Sample(Operation.RING, INTRA, 10 * (number + 1), 1, 0.0) for number in range(4)]
    groups = {Operation.RING: [(INTRA, (0, 1))]}
    (window,) = windows_of(samples, [report(durations[0]), report(durations[1])], groups)
    least = [min(pair) for pair in zip(*durations, strict=True)]
    assert window.sum_seconds == pytest.approx(sum(least))
    assert window.sum_bytes_seconds == pytest.approx(sum(s.sent_bytes * d for s, d in zip(samples, least, strict=True)))
    assert window.count == 4


def test_without_exchanges_there_are_no_windows() -> None:
    assert windows_of([], [report([])], {}) == ()
    assert replace(report([]), durations=[]).durations == []
