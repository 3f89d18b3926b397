"""An attack on a live server: mutated calls by the thousand, while an honest rank goes on reporting beside them."""

from __future__ import annotations

import contextlib
import queue
import random
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.controller.fuzz.mutations import NAMESPACE, Call, drawn
from tests.controller.messages import hello, step
from tests.controller.waiting import eventually
from thinwire.proto.thinwire.v1alpha1 import status_pb2
from thinwire.proto.thinwire.v1alpha1.status_pb2_grpc import StatusServiceStub
from thinwire.proto.thinwire.v1alpha1.telemetry_pb2_grpc import TelemetryServiceStub

CALL_SECONDS = 20.0
CALM_PAUSE_SECONDS = 0.05
MOST_GROWTH_BYTES = 64 << 20
_REPOSITORY = Path(__file__).resolve().parents[3]


@dataclass
class Outcome:
    """What became of the messages. `wrong` has a sentence for everything that must not happen."""

    sent: int = 0
    read: int = 0
    calls: int = 0
    connections: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    calm_steps: int = 0
    calm_answer_seconds: list[float] = field(default_factory=list)
    memory_before_bytes: int = 0
    memory_peak_bytes: int = 0
    memory_after_bytes: int = 0


@dataclass(frozen=True)
class Target:
    """The attacked server."""

    process: subprocess.Popen[str]
    port: int
    authorities: bytes
    log: Path
    folder: Path

    def messages_read(self) -> int:
        """How many messages the server has parsed, or tried to."""
        return int.from_bytes((self.folder / "read").read_bytes(), "little")

    def channel(self) -> grpc.Channel:
        options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
        return grpc.secure_channel(
            f"127.0.0.1:{self.port}", grpc.ssl_channel_credentials(self.authorities), options=options
        )

    def memory_bytes(self) -> int:
        return psutil.Process(self.process.pid).memory_info().rss


@contextlib.contextmanager
def target(folder: Path) -> Iterator[Target]:
    log = folder / "server.log"
    command = [sys.executable, "-m", "tests.controller.fuzz.target", str(folder)]
    with (
        log.open("w") as errors,
        subprocess.Popen(command, cwd=_REPOSITORY, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            yield Target(process, port, (folder / "ca.crt").read_bytes(), log, folder)
        finally:
            process.kill()


class Calm:
    """The honest rank: one stream, a step every 50 ms, and a person who asks how it fares."""

    def __init__(self, attacked: Target) -> None:
        self.steps = 0
        self.answer_seconds: list[float] = []
        self.wrong: list[str] = []
        self._stop = threading.Event()
        self._channel = attacked.channel()
        self._threads = [threading.Thread(target=self._report), threading.Thread(target=self._ask)]

    def __enter__(self) -> Calm:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        self._channel.close()

    @property
    def messages(self) -> int:
        """How many of the messages that the server has read are its own, at the least."""
        return self.steps + len(self.answer_seconds)

    def job(self) -> status_pb2.JobStatus:
        asked = status_pb2.GetJobRequest(namespace=NAMESPACE, name="calm")
        shown = (("authorization", "Bearer reader"),)
        return StatusServiceStub(self._channel).GetJob(asked, timeout=CALL_SECONDS, metadata=shown).job

    def _report(self) -> None:
        said: queue.Queue[object] = queue.Queue()
        shown = (("authorization", "Bearer calm"),)
        said.put(hello(1, job_name="calm", namespace=NAMESPACE))
        call = TelemetryServiceStub(self._channel).Report(iter(said.get, None), metadata=shown)
        reader = threading.Thread(target=lambda: self._drain(call))
        reader.start()
        while not self._stop.wait(CALM_PAUSE_SECONDS):
            said.put(step(self.steps + 2, self.steps, bytes_per_second=1e9))
            self.steps += 1
        said.put(None)
        reader.join(60)

    def _drain(self, call: grpc.Call) -> None:
        try:
            for _ in call:
                pass
        except grpc.RpcError as error:
            self.wrong.append(f"the honest stream ended: {error.code().name} {error.details()}")

    def _ask(self) -> None:
        while not self._stop.wait(CALM_PAUSE_SECONDS):
            begun = time.perf_counter()
            try:
                self.job()
            except grpc.RpcError as error:
                self.wrong.append(f"the honest reader got {error.code().name}: {error.details()}")
            self.answer_seconds.append(time.perf_counter() - begun)


def attack(attacked: Target, first_seed: int, messages: int, told: Callable[[int], None] = lambda _: None) -> Outcome:
    """Send mutated messages until the server has read so many, and look at what is left of it."""
    outcome = Outcome()
    with Calm(attacked) as calm:
        eventually(lambda: calm.steps > 3, within_seconds=60)
        # What any use of the server allocates once is no growth.
        warm = Outcome()
        _bombard(attacked, calm, first_seed, min(messages // 10, 2000), warm)
        outcome.memory_before_bytes = attacked.memory_bytes()
        _bombard(attacked, calm, first_seed + warm.calls, messages, outcome, told)
        eventually(lambda: calm.job().job_step >= calm.steps - 5, within_seconds=60)
        job = calm.job()
    outcome.wrong += calm.wrong
    outcome.calm_steps, outcome.calm_answer_seconds = calm.steps, calm.answer_seconds
    outcome.memory_after_bytes = attacked.memory_bytes()
    if job.reports_refused:
        outcome.wrong.append(f"reports of the honest job were refused: {dict(job.reports_refused)}")
    growth = outcome.memory_after_bytes - outcome.memory_before_bytes
    if growth > MOST_GROWTH_BYTES:
        outcome.wrong.append(f"memory grew by {growth >> 20} MiB, expected at most {MOST_GROWTH_BYTES >> 20}")
    _look_at(attacked, outcome)
    return outcome


def _bombard(
    attacked: Target,
    calm: Calm,
    first_seed: int,
    messages: int,
    outcome: Outcome,
    told: Callable[[int], None] = lambda _: None,
) -> None:
    seed, before = first_seed, attacked.messages_read() - calm.messages
    while outcome.read < messages:
        # A new connection now and then: the server may have closed the one in hand.
        with attacked.channel() as channel:
            for _ in range(min(messages, 50)):
                call = drawn(seed)
                outcome.codes[_sent(channel, call, outcome)] += len(call.payloads)
                outcome.kinds[call.kind] += len(call.payloads)
                outcome.calls += 1
                outcome.sent += len(call.payloads)
                seed += 1
        _raw(attacked.port, random.Random(seed), outcome)
        outcome.memory_peak_bytes = max(outcome.memory_peak_bytes, attacked.memory_bytes())
        outcome.read = attacked.messages_read() - calm.messages - before
        told(outcome.read)


def _sent(channel: grpc.Channel, call: Call, outcome: Outcome) -> str:
    """The status that the call ended with."""
    try:
        if call.streams and call.method.endswith("WatchJob"):
            watch = channel.unary_stream(call.method)(call.payloads[0], timeout=CALL_SECONDS, metadata=call.metadata)
            next(watch)
            watch.cancel()
        elif call.streams:
            list(channel.stream_stream(call.method)(iter(call.payloads), timeout=CALL_SECONDS, metadata=call.metadata))
        else:
            channel.unary_unary(call.method)(call.payloads[0], timeout=CALL_SECONDS, metadata=call.metadata)
    except grpc.RpcError as error:
        if error.code() in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED):
            outcome.wrong.append(f"{call.kind} at {call.method}: {error.code().name} {error.details()}")
        return str(error.code().name)
    except StopIteration:
        return "OK"
    return "OK"


def _raw(port: int, chance: random.Random, outcome: Outcome) -> None:
    """A connection that speaks no gRPC: noise before TLS, or inside it."""
    outcome.connections += 1
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
        if chance.random() < 0.5:
            plain.sendall(chance.randbytes(chance.randrange(1, 2000)))
            return
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        with context.wrap_socket(plain) as secure:
            preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" if chance.random() < 0.7 else b""
            secure.sendall(preface + chance.randbytes(chance.randrange(1, 2000)))


def _look_at(attacked: Target, outcome: Outcome) -> None:
    if attacked.process.poll() is not None:
        outcome.wrong.append(f"the server ended with {attacked.process.returncode}")
        return
    with attacked.channel() as channel:
        asked = health_pb2.HealthCheckRequest()
        health = health_pb2_grpc.HealthStub(channel).Check(asked, timeout=CALL_SECONDS).status
    if health != health_pb2.HealthCheckResponse.SERVING:
        outcome.wrong.append(f"the server is not healthy: {health}")
    log = attacked.log.read_text(errors="replace")
    if "Traceback" in log:
        outcome.wrong.append(f"the server logged a traceback: {log[log.index('Traceback') :][:1500]}")
