"""What ranks tell each other arrives as it was, and windows are made of it as the law expects."""

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.runtime.exchange.meter import Operation, Sample, StepMeter
from thinwire.runtime.exchange.report import RankReport, StepTotals, count_mismatches, transfers_of
from thinwire.runtime.exchange.windows import windows_of
from thinwire.runtime.facts import Directive
from thinwire.runtime.parallel import LinkClass

INTRA, INTER = LinkClass.INTRA_NODE, LinkClass.INTER_NODE
NOTHING = (0.0,) * len(Operation)
counts = st.integers(0, 2**50).map(float)
seconds = st.floats(0, 1e6)
directives = st.none() | st.builds(
    Directive,
    epoch=st.integers(1, 2**50),
    rates=st.dictionaries(st.sampled_from([str(link) for link in LinkClass]), st.integers(0, 64_000)),
)
samples = st.builds(
    Sample,
    operation=st.sampled_from(Operation),
    link_class=st.just(INTRA),
    sent_bytes=st.integers(0, 2**40),
    values=st.integers(0, 2**40),
    seconds=seconds,
    waited_seconds=seconds,
)


@given(
    world_size=st.integers(1, 8),
    numbers=st.lists(seconds, min_size=9, max_size=9),
    directive=directives,
    transfers=st.lists(samples, max_size=50),
    room=st.integers(0, 10),
    checksum=counts,
)
def test_a_report_arrives_as_it_was(
    world_size: int,
    numbers: list[float],
    directive: Directive | None,
    transfers: list[Sample],
    room: int,
    checksum: float,
) -> None:
    report = RankReport(
        totals=StepTotals(*numbers),
        directive=directive,
        sent_checksums=[checksum] * world_size,
        heard_checksums=[checksum + 1] * world_size,
        encode_seconds=[0.5 + number for number in range(len(Operation))],
        decode_seconds=[0.125 + number for number in range(len(Operation))],
        transfers=transfers_of(transfers),
    )
    vector = report.to_vector(len(transfers) + room)
    arrived = RankReport.from_vector(vector, world_size)
    for name in ("totals", "directive", "sent_checksums", "heard_checksums", "encode_seconds", "decode_seconds"):
        assert getattr(arrived, name) == getattr(report, name)
    numpy.testing.assert_array_equal(arrived.transfers, report.transfers)


def test_ranks_with_different_transfers_say_as_much_as_each_other() -> None:
    few, many = report([]), report([1.0] * 5)
    assert len(few.to_vector(5)) == len(many.to_vector(5))
    with pytest.raises(RuntimeError, match="at most 4 transfers"):
        many.to_vector(4)


def report(
    durations: list[float],
    operations: list[Operation] | None = None,
    encode: tuple[float, ...] = NOTHING,
    sent: tuple[int, int] = (0, 0),
    heard: tuple[int, int] = (0, 0),
    sizes: list[int] | None = None,
    waited: list[float] | None = None,
) -> RankReport:
    meter = StepMeter()
    meter.start()
    count = len(durations)
    rows = zip(
        operations or [Operation.RING] * count, sizes or [100] * count, durations, waited or durations, strict=True
    )
    transfers = transfers_of(
        [Sample(operation, INTRA, size, size // 2, took, stood) for operation, size, took, stood in rows]
    )
    return RankReport(StepTotals.measured(meter, 1.0, 0), None, sent, heard, encode, NOTHING, transfers)


def test_pairs_of_ranks_whose_bases_differ_are_counted() -> None:
    assert count_mismatches([report([], sent=(0, 5)), report([], heard=(5, 0))]) == 0
    assert count_mismatches([report([], sent=(0, 5)), report([], heard=(6, 0))]) == 1
    assert count_mismatches([report([], sent=(0, 5), heard=(0, 1)), report([], sent=(2, 0), heard=(6, 0))]) == 2


def test_computing_is_what_waiting_and_codec_leave_of_a_step() -> None:
    meter = StepMeter()
    meter.start()
    meter.samples.append(Sample(Operation.RING, INTRA, 10, 20, 2.0, 0.25))
    meter.encode_seconds[Operation.RING] += 0.125
    meter.decode_seconds[Operation.ULYSSES] += 0.125
    assert StepTotals.measured(meter, 1.0, 7).compute_seconds == 0.5
    assert StepTotals.measured(meter, 0.1, 7).compute_seconds == 0.0


def test_the_last_rank_to_arrive_says_how_long_an_exchange_took() -> None:
    both = [Operation.RING, Operation.ULYSSES]
    groups = {
        Operation.RING: [(INTER, (0, 2)), (INTER, (1, 3))],
        Operation.ULYSSES: [(INTRA, (0, 1)), (INTRA, (2, 3))],
    }
    reports = [
        report([3.0, 1.0], both, encode=(0.1, 0.4, 0.0)),
        report([4.0, 2.0], both, encode=(0.2, 0.3, 0.0)),
        report([1.0, 3.0], both, encode=(0.3, 0.2, 0.0)),
        report([5.0, 0.5], both, encode=(0.4, 0.1, 0.0)),
    ]
    ring, ulysses = windows_of(reports, groups)
    assert (ring.link_class, ring.operation, ring.count) == ("inter-node", "ring.all_gather", 2)
    assert (ring.min_seconds, ring.max_seconds, ring.sum_seconds) == (1.0, 4.0, 5.0)
    assert (ring.sum_bytes, ring.sum_bytes_squared, ring.sum_bytes_seconds) == (200, 20_000, 500)
    assert (ring.sum_seconds_squared, ring.values, ring.encode_seconds) == (17.0, 100, 0.4)
    assert (ulysses.min_seconds, ulysses.max_seconds, ulysses.count) == (0.5, 1.0, 2)
    assert ring.hidden_seconds == ulysses.hidden_seconds == 0.0


def test_what_no_rank_waited_for_was_hidden() -> None:
    groups = {Operation.RING: [(INTRA, (0, 1))]}
    reports = [report([4.0, 2.0], waited=[0.0, 1.0]), report([5.0, 2.0], waited=[1.0, 3.0])]
    (window,) = windows_of(reports, groups)
    assert window.sum_seconds == 6.0
    assert window.hidden_seconds == 3.0


@given(durations=st.lists(st.lists(st.floats(0.001, 10), min_size=4, max_size=4), min_size=2, max_size=2))
def test_a_window_s_sums_are_those_of_its_exchanges(durations: list[list[float]]) -> None:
    sizes = [10 * (number + 1) for number in range(4)]
    groups = {Operation.RING: [(INTRA, (0, 1))]}
    (window,) = windows_of([report(took, sizes=sizes) for took in durations], groups)
    least = [min(pair) for pair in zip(*durations, strict=True)]
    assert window.sum_seconds == pytest.approx(sum(least))
    assert window.sum_bytes_seconds == pytest.approx(sum(s * d for s, d in zip(sizes, least, strict=True)))
    assert window.count == 4


def test_a_group_that_stood_by_has_no_part_in_a_window() -> None:
    groups = {Operation.RING: [(INTRA, (0, 1)), (INTRA, (2, 3))]}
    reports = [report([1.0]), report([2.0]), report([]), report([])]
    (window,) = windows_of(reports, groups)
    assert (window.count, window.sum_seconds) == (1, 1.0)


def test_without_exchanges_there_are_no_windows() -> None:
    assert windows_of([report([])], {}) == ()
    assert windows_of([report([])] * 2, {Operation.RING: [(INTRA, (0, 1))]}) == ()
