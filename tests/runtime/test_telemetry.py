"""The client against real servers: in this process where they behave, in another where they are stopped or killed."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from tests.runtime.facts_of_a_run import run_facts, run_spec
from thinwire.proto.thinwire.v1alpha1 import telemetry_pb2 as pb
from thinwire.proto.thinwire.v1alpha1 import telemetry_pb2_grpc as pb_grpc
from thinwire.runtime import messages
from thinwire.runtime.telemetry import RETUNES_TOLD, TelemetryClient

HELLO = messages.hello(run_spec(Path("/out"), Path("/model")), run_facts(), prompts_finished=1)
DONE = pb.RunFinished(succeeded=True)
SLOWEST_STEP_CALL_SECONDS = 0.1


def report(job_step: int, *, epoch: int = 0) -> pb.StepReport:
    rates = [pb.LinkClassRate(link_class="intra-node", millibits=8000)]
    return pb.StepReport(
        job_step=job_step, prompt_name="rocket", step=job_step, epoch=epoch, rates=rates, bytes_sent=100 * job_step
    )


def eventually(condition: Callable[[], bool], *, seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        threading.Event().wait(0.01)


class Controller(pb_grpc.TelemetryServiceServicer):
    """Keeps what it hears, and answers with what the test puts in."""

    def __init__(self) -> None:
        self.heard: list[pb.ReportRequest] = []
        self.answers: list[pb.ReportResponse] = []
        self.aborts_left = 0
        self.reads = True
        self.released = threading.Event()

    def Report(self, request_iterator, context) -> Iterator[pb.ReportResponse]:  # noqa: N802
        if self.aborts_left:
            self.aborts_left -= 1
            context.abort(grpc.StatusCode.INTERNAL, "not now")
        if not self.reads:
            self.released.wait(60)
            return
        for request in request_iterator:
            self.heard.append(request)
            yield from self.answers

    def of(self, kind: str) -> list:
        return [getattr(request, kind) for request in self.heard if request.HasField(kind)]


class Served:
    """A Controller on a port, which can go away and come back."""

    def __init__(self, port: int = 0) -> None:
        self.controller = Controller()
        self._server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        pb_grpc.add_TelemetryServiceServicer_to_server(self.controller, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()
        self.address = f"127.0.0.1:{self.port}"

    def stop(self) -> None:
        self.controller.released.set()
        self._server.stop(grace=0).wait(10)


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_everything_said_arrives_in_order_after_a_hello(served: Served) -> None:
    client = TelemetryClient(served.address, HELLO)
    for job_step in range(20):
        client.step(report(job_step))
    client.prompt_finished(pb.PromptFinished(prompt_name="rocket", seed=2, prompts_done=2))
    assert client.close(DONE)
    heard = served.controller.heard
    assert [request.WhichOneof("body") for request in heard] == [
        "hello",
        *["step"] * 20,
        "prompt_finished",
        "run_finished",
    ]
    assert [request.sequence for request in heard] == list(range(1, 24))
    assert [step.job_step for step in served.controller.of("step")] == list(range(20))
    hello = heard[0].hello
    assert (hello.job_name, hello.attempt, hello.world_size, hello.prompts_total) == ("emoji", 1, 4, 3)
    assert hello.policy.adaptive
    assert [rung.name for rung in hello.ladder] == ["off", "int8", "int4", "bits2", "bits1"]


def test_the_newest_directive_wins_and_older_ones_are_passed_over(served: Served) -> None:
    for epoch in (2, 1, 3, 3, 2):
        rate = pb.LinkClassRate(link_class="intra-node", millibits=1000 * epoch)
        directive = pb.Directive(epoch=epoch, rates=[rate], reason=f"reason {epoch}")
        served.controller.answers.append(pb.ReportResponse(directive=directive))
    client = TelemetryClient(served.address, HELLO)
    eventually(lambda: client.newest_directive() is not None and client.newest_directive().epoch == 3)
    assert client.close(DONE)
    assert client.newest_directive().rates == {"intra-node": 3000}
    assert client.newest_directive().reason == "reason 3"


def test_a_controller_that_is_away_costs_nothing_and_learns_everything_later() -> None:
    port = free_port()
    client = TelemetryClient(f"127.0.0.1:{port}", HELLO, queue_limit=10)
    slowest = 0.0
    for job_step in range(500):
        began = time.perf_counter()
        client.step(report(job_step), (pb.Retune(job_step=7, epoch=4, to_millibits=2000),) if job_step == 6 else ())
        slowest = max(slowest, time.perf_counter() - began)
    client.prompt_finished(pb.PromptFinished(prompt_name="rocket", prompts_done=2))
    assert slowest < SLOWEST_STEP_CALL_SECONDS
    assert client.counters.dropped == 490
    served = Served(port)
    try:
        eventually(lambda: bool(served.controller.of("prompt_finished")))
        hello = served.controller.of("hello")[0]
        assert (hello.prompts_done, hello.epoch, hello.bytes_sent) == (2, 4, 49900)
        assert [retune.to_millibits for retune in hello.retunes] == [2000]
        assert [step.job_step for step in served.controller.of("step")] == list(range(490, 500))
        assert client.close(DONE)
    finally:
        served.stop()


def test_a_controller_that_starts_again_is_told_the_history() -> None:
    first = Served()
    client = TelemetryClient(first.address, HELLO)
    client.step(report(0))
    eventually(lambda: len(first.controller.of("step")) == 1)
    first.stop()
    retune = pb.Retune(
        job_step=2, epoch=1, link_class="intra-node", from_millibits=8000, to_millibits=2000, reason="fell"
    )
    client.step(report(1), (retune,))
    second = Served(first.port)
    try:
        eventually(lambda: bool(second.controller.of("hello")))
        client.step(report(2, epoch=1))
        eventually(lambda: any(step.job_step == 2 for step in second.controller.of("step")))
        hello = second.controller.heard[0].hello
        assert list(hello.retunes) == [retune]
        assert (hello.epoch, hello.rates[0].millibits) == (1, 2000)
        sequences = [request.sequence for request in (*first.controller.heard, *second.controller.heard)]
        assert sequences == sorted(set(sequences))
        assert client.close(DONE)
        assert second.controller.of("run_finished") == [DONE]
    finally:
        second.stop()


def test_streams_that_are_refused_are_tried_again(served: Served) -> None:
    served.controller.aborts_left = 3
    client = TelemetryClient(served.address, HELLO)
    client.step(report(0))
    eventually(lambda: bool(served.controller.of("hello")))
    assert served.controller.aborts_left == 0
    assert client.close(DONE)


def test_a_server_that_never_reads_gets_a_bounded_amount_and_stops_nothing(served: Served) -> None:
    served.controller.reads = False
    client = TelemetryClient(served.address, HELLO, queue_limit=64)
    eventually(lambda: client.counters.streams == 1)
    slowest, job_step, deadline = 0.0, 0, time.monotonic() + 15
    padding = "x" * 4096
    while client.counters.dropped < 200:
        assert time.monotonic() < deadline, "the flood was never dammed"
        padded = report(job_step)
        padded.prompt_name = padding
        began = time.perf_counter()
        client.step(padded)
        slowest = max(slowest, time.perf_counter() - began)
        job_step += 1
    assert slowest < SLOWEST_STEP_CALL_SECONDS
    began = time.monotonic()
    assert not client.close(DONE, timeout_seconds=0.3)
    assert time.monotonic() - began < 3


SERVER = """
    import sys
    from concurrent import futures
    import grpc
    from thinwire.proto.thinwire.v1alpha1 import telemetry_pb2 as pb, telemetry_pb2_grpc as pb_grpc

    class Controller(pb_grpc.TelemetryServiceServicer):
        def Report(self, requests, context):
            for request in requests:
                epoch = request.step.job_step if request.HasField("step") else 0
                yield pb.ReportResponse(directive=pb.Directive(epoch=epoch))

    server = grpc.server(futures.ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    pb_grpc.add_TelemetryServiceServicer_to_server(Controller(), server)
    print(server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}"), flush=True)
    server.start()
    server.wait_for_termination()
"""


def other_process(port: int = 0) -> tuple["subprocess.Popen[bytes]", int]:
    command = [sys.executable, "-c", textwrap.dedent(SERVER), str(port)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert server.stdout is not None
    return server, int(server.stdout.readline())


def test_a_stopped_controller_slows_no_step_and_is_heard_again_when_it_goes_on() -> None:
    server, port = other_process()
    try:
        client = TelemetryClient(f"127.0.0.1:{port}", HELLO, queue_limit=32)
        client.step(report(1))
        eventually(lambda: client.newest_directive() is not None and client.newest_directive().epoch == 1)
        os.kill(server.pid, signal.SIGSTOP)
        slowest = 0.0
        for job_step in range(2, 20_000):
            began = time.perf_counter()
            client.step(report(job_step))
            slowest = max(slowest, time.perf_counter() - began)
            client.newest_directive()
        assert slowest < SLOWEST_STEP_CALL_SECONDS
        assert client.counters.dropped > 0
        began = time.monotonic()
        os.kill(server.pid, signal.SIGCONT)
        eventually(lambda: client.newest_directive().epoch == 19_999)
        os.kill(server.pid, signal.SIGSTOP)
        began = time.monotonic()
        client.close(DONE, timeout_seconds=0.2)
        assert time.monotonic() - began < 2
    finally:
        server.kill()
        server.wait()


def test_a_killed_controller_is_found_again_at_the_same_address() -> None:
    server, port = other_process()
    client = TelemetryClient(f"127.0.0.1:{port}", HELLO)
    try:
        client.step(report(1))
        eventually(lambda: client.newest_directive() is not None and client.newest_directive().epoch == 1)
        server.kill()
        server.wait()
        server, _ = other_process(port)
        client.step(report(2))
        client.step(report(3))
        eventually(lambda: client.newest_directive().epoch == 3)
        assert client.close(DONE)
    finally:
        server.kill()
        server.wait()


def test_nobody_at_the_address_does_not_keep_a_run_from_ending() -> None:
    client = TelemetryClient(f"127.0.0.1:{free_port()}", HELLO)
    began = time.monotonic()
    assert not client.close(DONE, timeout_seconds=0.3)
    assert time.monotonic() - began < 2


def test_a_hello_repeats_the_newest_retunes_and_stays_small(served: Served) -> None:
    served.controller.aborts_left = 10**9
    client = TelemetryClient(served.address, HELLO)
    for number in range(2000):
        retune = pb.Retune(job_step=number, epoch=number + 1, link_class="intra-node", to_millibits=8000)
        client.step(report(number), (retune,))
    served.controller.aborts_left = 0
    eventually(lambda: bool(served.controller.of("hello")))
    said = served.controller.of("hello")[-1].retunes
    assert [said[0].job_step, said[-1].job_step] == [2000 - RETUNES_TOLD, 1999]
    client.close(DONE)
