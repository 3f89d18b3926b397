from hypothesis import given
from hypothesis import strategies as st

from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import EmulatedLinkPhase
from thinwire.runtime.exchange.pacing import Pacer, Phase


class FakeTime:
    def __init__(self) -> None:
        self.now = 100.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


def paced(phases: list[Phase]) -> tuple[Pacer, FakeTime]:
    time = FakeTime()
    return Pacer(phases, time.clock, time.sleep), time


@given(sizes=st.lists(st.integers(1, 10**6), min_size=1, max_size=30), rate=st.integers(1000, 10**9))
def test_sends_in_a_row_never_exceed_the_rate(sizes: list[int], rate: int) -> None:
    pacer, time = paced([Phase(0, rate)])
    began = time.now
    for size in sizes:
        pacer.pace(time.now, size, job_step=0)
    rounding = 1e-12 * len(sizes)  # The clock counts from 100 s on, in doubles.
    assert time.now - began >= sum(sizes) * 8 / rate * (1 - 1e-9) - rounding


def test_a_send_that_was_slow_anyway_is_not_slowed_further() -> None:
    pacer, time = paced([Phase(0, 8000)])
    started = time.now
    time.now += 5.0
    pacer.pace(started, 1000, job_step=0)
    assert time.now == started + 5.0


def test_idle_time_saves_nothing_up() -> None:
    pacer, time = paced([Phase(0, 8000)])
    time.now += 1000.0
    started = time.now
    pacer.pace(started, 1000, job_step=0)
    assert time.now == started + 1.0


def test_phases_hold_from_their_step_on_whatever_their_order() -> None:
    pacer = Pacer.from_spec(
        [EmulatedLinkPhase(from_step=10, bits_per_second=5), EmulatedLinkPhase(from_step=0, bits_per_second=50)]
    )
    assert [pacer.bits_per_second(step) for step in (0, 9, 10, 99)] == [50, 50, 5, 5]


def test_before_the_first_phase_and_without_any_there_is_no_limit() -> None:
    assert Pacer([Phase(3, 7)]).bits_per_second(2) == 0
    assert not Pacer([]).emulates
    pacer, time = paced([])
    pacer.pace(time.now, 10**12, job_step=0)
    assert time.now == 100.0
