from __future__ import annotations

import queue
import random
import re
from collections.abc import Iterator

import grpc
import pytest

from tests.controller.messages import STEPS, hello, step
from tests.controller.serving import KEY, Served, served
from tests.controller.waiting import eventually
from thinwire.controller.job_record import JobKey, JobRecord
from thinwire.proto.thinwire.v1alpha1 import telemetry_pb2 as pb


@pytest.fixture
def controller() -> Iterator[Served]:
    with served(JobRecord(KEY)) as running:
        yield running


class Rank0:
    """Speaks on one stream; `say` returns the directives that came back so far."""

    def __init__(self, controller: Served) -> None:
        self._said: queue.Queue[pb.ReportRequest | None] = queue.Queue()
        self.answers = controller.telemetry.Report(iter(self._said.get, None))

    def say(self, *requests: pb.ReportRequest) -> None:
        for request in requests:
            self._said.put(request)

    def hang_up(self) -> list[pb.Directive]:
        self._said.put(None)
        return [answer.directive for answer in self.answers]


def test_a_slow_link_is_answered_with_a_lower_rate_and_a_reason(controller: Served):
    rank = Rank0(controller)
    rank.say(hello(1), *(step(number + 2, number, bytes_per_second=5e6) for number in range(4)))
    (directive,) = rank.hang_up()
    assert directive.epoch == 1
    assert directive.rates[0].millibits < 32000
    assert "intra-node carries 4.99 MB/s" in directive.reason
    assert "off stalls" in directive.reason
    assert re.search(r"step \S+ s -> \S+ s", directive.reason)


def test_run_finished_ends_the_stream_in_agreement(controller: Served):
    rank = Rank0(controller)
    rank.say(hello(1), pb.ReportRequest(sequence=2, run_finished=pb.RunFinished(succeeded=True)))
    assert list(rank.answers) == []
    assert rank.answers.code() == grpc.StatusCode.OK
    finished = controller.record().heard.finished
    assert finished is not None
    assert finished.succeeded


@pytest.mark.parametrize(
    ("first", "code", "words"),
    [
        (step(1, 0), grpc.StatusCode.FAILED_PRECONDITION, "expected Hello first, got step"),
        (pb.ReportRequest(sequence=1), grpc.StatusCode.FAILED_PRECONDITION, "expected Hello first, got nothing"),
        (hello(job_name="other"), grpc.StatusCode.NOT_FOUND, "no job default/other here"),
        (hello(attempt=0), grpc.StatusCode.FAILED_PRECONDITION, "only the newest attempt may report"),
        (hello(prompts_total=-1), grpc.StatusCode.FAILED_PRECONDITION, "a negative count"),
        (hello(epoch=2**63), grpc.StatusCode.FAILED_PRECONDITION, "an epoch that no run reaches"),
    ],
)
def test_a_stream_that_cannot_be_listened_to_is_refused_in_words(
    controller: Served, first: pb.ReportRequest, code: grpc.StatusCode, words: str
):
    rank = Rank0(controller)
    rank.say(first)
    with pytest.raises(grpc.RpcError) as refused:
        next(rank.answers)
    assert refused.value.code() == code
    assert words in refused.value.details()


def test_the_ranks_of_an_earlier_attempt_are_not_heard(controller: Served):
    first, second = Rank0(controller), Rank0(controller)
    first.say(hello(1, attempt=2))
    eventually(lambda: controller.record().heard.attempt == 2)
    second.say(hello(1, attempt=1))
    with pytest.raises(grpc.RpcError, match="expected attempt 2, got a Hello of attempt 1"):
        next(second.answers)
    assert first.hang_up() == []


def test_a_newer_stream_of_a_job_silences_the_older_one(controller: Served):
    older = Rank0(controller)
    older.say(hello(1), *(step(number + 2, number, bytes_per_second=5e6) for number in range(4)))
    assert next(older.answers).directive.epoch == 1
    newer = Rank0(controller)
    newer.say(hello(10), *(step(number + 11, number + 4, bytes_per_second=5e6) for number in range(2)))
    assert next(newer.answers).directive.epoch == 1
    older.say(step(30, 9))
    with pytest.raises(grpc.RpcError, match="a newer stream"):
        next(older.answers)
    newer.hang_up()


def test_a_replayed_stream_moves_nothing_is_counted_and_silences_nobody(controller: Served):
    said = [hello(1), *(step(number + 2, number) for number in range(10))]
    first, again = Rank0(controller), Rank0(controller)
    first.say(*said)
    eventually(lambda: controller.record().heard.sequence == 11)
    before = controller.record()
    again.say(*said)
    with pytest.raises(grpc.RpcError, match="a sequence above 11, got 1; a stream that was said before"):
        list(again.answers)
    after = controller.record()
    assert (after.heard, after.samples) == (before.heard, before.samples)
    assert dict(after.refused) == {"sequence seen before": 1}
    first.say(step(12, 10))
    eventually(lambda: controller.record().heard.sequence == 12)
    first.hang_up()


@pytest.mark.parametrize(
    ("greeting", "reason"),
    [
        (hello(5), "sequence seen before"),
        (hello(4), "sequence seen before"),
        (hello(2**40), "sequence leaps ahead"),
        (hello(6, epoch=9), "unknown epoch"),
        (hello(6, attempt=0), "stream refused"),
    ],
)
def test_a_hello_that_no_rank_can_say_now_leaves_the_speaker_speaking(
    controller: Served, greeting: pb.ReportRequest, reason: str
):
    first, second = Rank0(controller), Rank0(controller)
    first.say(hello(1), *(step(number + 2, number) for number in range(4)))
    eventually(lambda: controller.record().heard.sequence == 5)
    second.say(greeting)
    with pytest.raises(grpc.RpcError) as refused:
        next(second.answers)
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert dict(controller.record().refused) == {reason: 1}
    first.say(step(6, 4))
    eventually(lambda: controller.record().heard.sequence == 6)
    first.hang_up()


def test_a_first_hello_far_beyond_any_count_is_refused(controller: Served):
    rank = Rank0(controller)
    rank.say(hello(2**63))
    with pytest.raises(grpc.RpcError, match="expected a Hello with a sequence near -1"):
        next(rank.answers)


def test_a_step_of_an_epoch_that_nobody_ordered_moves_nothing(controller: Served):
    rank = Rank0(controller)
    rank.say(hello(1), step(2, 0, bytes_per_second=1e9), step(3, 1, epoch=9), step(4, 1, bytes_per_second=1e9))
    rank.hang_up()
    record = controller.record()
    assert dict(record.refused) == {"unknown epoch": 1}
    assert [sample.job_step for sample in record.samples] == [0, 1]
    assert record.heard.tuner is not None
    assert record.heard.tuner.epoch == 0


def test_a_directive_of_a_controller_that_is_gone_may_be_applied(controller: Served):
    rank = Rank0(controller)
    rank.say(hello(1, epoch=4), step(2, 0, epoch=4), step(3, 1, epoch=5))
    rank.hang_up()
    record = controller.record()
    assert dict(record.refused) == {}
    assert record.heard.tuner is not None
    assert record.heard.tuner.epoch == 5


def test_a_flood_ends_its_stream_is_counted_and_other_jobs_are_heard(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("thinwire.controller.telemetry_service.REPORTS_BURST", 50)
    monkeypatch.setattr("thinwire.controller.telemetry_service.REPORTS_PER_SECOND", 0.001)
    other = JobKey("default", "other")
    with served(JobRecord(KEY), JobRecord(other)) as controller:
        flood, again, calm = Rank0(controller), Rank0(controller), Rank0(controller)
        flood.say(hello(1), *(step(number + 2, number % 28) for number in range(200)))
        with pytest.raises(grpc.RpcError) as refused:
            list(flood.answers)
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        again.say(hello(1000))
        with pytest.raises(grpc.RpcError, match=r"expected at most 0\.001 reports a second"):
            list(again.answers)
        assert controller.record().refused["flood"] == 2
        calm.say(hello(1, job_name="other"), step(2, 0))
        assert calm.hang_up() == []
        assert controller.inside(lambda: controller.store.get(other)).heard.step is not None


def test_a_stream_that_says_nothing_is_ended(controller: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("thinwire.controller.telemetry_service.HELLO_SECONDS", 0.05)
    with pytest.raises(grpc.RpcError) as refused:
        next(Rank0(controller).answers)
    assert refused.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert Rank0(controller).hang_up() == []


def test_a_hello_of_another_job_in_mid_stream_and_a_mangled_sequence_move_nothing_and_are_counted(controller: Served):
    rank = Rank0(controller)
    rank.say(hello(1), *(step(number + 2, number, bytes_per_second=1e9) for number in range(6)))
    rank.say(hello(8, job_name="another"), step(2**63, 6), step(9, 6, bytes_per_second=1e9))
    rank.hang_up()
    record = controller.record()
    assert dict(record.refused) == {"hello of another job": 1, "sequence leaps ahead": 1}
    assert record.heard.hello is not None
    assert record.heard.hello.job_name == "emoji"
    assert record.samples[-1].job_step == 6


def test_a_new_controller_learns_from_hello_what_it_missed(controller: Served):
    retune = pb.Retune(
        job_step=9, epoch=3, link_class="intra-node", from_millibits=32000, to_millibits=2200, reason="x"
    )
    greeting = hello(100, prompts_done=1, epoch=3)
    greeting.hello.retunes.append(retune)
    del greeting.hello.rates[:]
    greeting.hello.rates.add(link_class="intra-node", millibits=2200)
    rank = Rank0(controller)
    rank.say(greeting, *(step(101 + at, STEPS + at, millibits=2200, epoch=3) for at in range(4)))
    rank.hang_up()
    record = controller.record()
    assert record.heard.prompts_done == 1
    assert list(record.retunes) == [retune]
    assert record.heard.tuner is not None
    assert record.heard.tuner.epoch == 3


def test_two_thousand_fuzzed_reports_change_no_rate_and_kill_nothing(controller: Served):
    chance = random.Random(7)
    rank = Rank0(controller)
    rank.say(hello(1), *(step(number + 2, number, bytes_per_second=1e9) for number in range(6)))
    poison = (float("nan"), float("inf"), -float("inf"), -1.0, 0.0, 1e300, -1e300)
    whole = (-1, -(2**31), 2**31 - 1, 0)
    sequence = 100
    for _ in range(2000):
        sequence += chance.choice((0, 1, 1, 3))
        request = step(sequence, 6 + chance.randrange(20))
        window = request.step.windows[0]
        match chance.randrange(6):
            case 0:
                setattr(window, chance.choice(("sum_bytes", "sum_seconds")), chance.choice(poison))
            case 1:
                setattr(request.step, chance.choice(("step_seconds", "compute_seconds")), chance.choice(poison[:4]))
            case 2:
                window.count = chance.choice((-1, -(2**63)))
            case 3:
                request.step.job_step = chance.choice(whole[:2])
            case 4:
                request.step.rates[0].millibits = chance.choice((-5, 0, 2**31 - 1))
            case _:
                request.step.windows.append(window)
        rank.say(request)
    rank.say(step(sequence + 1, 6, bytes_per_second=1e9))
    assert [directive for directive in rank.hang_up() if directive.rates[0].millibits != 32000] == []
    record = controller.record()
    assert sum(record.refused.values()) == 2000
    assert record.samples[-1].job_step == 6


def test_bytes_that_are_no_message_end_only_their_own_stream(controller: Served):
    chance = random.Random(3)
    method = f"/{pb.DESCRIPTOR.services_by_name['TelemetryService'].full_name}/Report"
    raw = controller.channel.stream_stream(method)
    for _ in range(20):
        with pytest.raises(grpc.RpcError):
            list(raw(iter([chance.randbytes(chance.randrange(1, 200))])))
    rank = Rank0(controller)
    rank.say(hello(1))
    assert rank.hang_up() == []


def test_a_message_beyond_the_size_limit_is_refused(controller: Served):
    rank = Rank0(controller)
    rank.say(hello(1, version="x" * 5_000_000))
    with pytest.raises(grpc.RpcError) as refused:
        next(rank.answers)
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def greeting_with(**lists: list[object]) -> pb.ReportRequest:
    greeting = hello(1)
    for name, entries in lists.items():
        field = getattr(greeting.hello, name)
        del field[:]
        field.extend(entries)
    return greeting


@pytest.mark.parametrize(
    ("greeting", "words"),
    [
        (greeting_with(retunes=[pb.Retune()] * 100_000), "more retunes than a rank tells of"),
        (greeting_with(retunes=[pb.Retune(prompt_name="x" * 300)]), "a retune with a name that is too long"),
        (greeting_with(retunes=[pb.Retune(reason="x" * 3000)]), "a retune with a reason that is too long"),
        (greeting_with(rates=[pb.LinkClassRate(link_class=f"{n}", millibits=1) for n in range(17)]), "more rungs or"),
        (greeting_with(ladder=[pb.LadderRung(name="x" * 300, millibits=1)]), "a name that is too long"),
        (hello(1, version="x" * 300), "a name that is too long"),
    ],
)
def test_a_hello_that_would_fill_the_memory_is_refused(controller: Served, greeting: pb.ReportRequest, words: str):
    rank = Rank0(controller)
    rank.say(greeting)
    with pytest.raises(grpc.RpcError, match=words):
        next(rank.answers)


def test_names_that_would_fill_a_history_are_refused_and_counted(controller: Served):
    rank = Rank0(controller)
    rank.say(hello(1))
    for number, change in enumerate(("prompt", "link", "windows")):
        report = step(number + 2, number, bytes_per_second=1e9)
        if change == "prompt":
            report.step.prompt_name = "x" * 300
        elif change == "link":
            report.step.rates[0].link_class = "x" * 300
        else:
            report.step.windows.extend([report.step.windows[0]] * 64)
        rank.say(report)
    rank.hang_up()
    assert dict(controller.record().refused) == {"text too long": 2, "too many link classes": 1}
