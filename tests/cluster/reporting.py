"""Rank 0 of a gang as the controller hears it: a stream of reports whose rate follows the directives."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

import grpc

from tests.cluster.operator_process import OperatorProcess
from tests.controller import messages
from tests.controller.waiting import eventually
from thinwire.proto.thinwire.v1alpha1 import telemetry_pb2 as pb
from thinwire.proto.thinwire.v1alpha1.telemetry_pb2_grpc import TelemetryServiceStub


class Rank:
    """Says Hello, then steps when told to."""

    def __init__(
        self,
        operator: OperatorProcess,
        job: str,
        *,
        attempt: int = 1,
        adaptive: bool = True,
        millibits: int = 32000,
        bytes_per_second: float = 50e6,
        first_job_step: int = 0,
    ) -> None:
        self.millibits = millibits
        self._bytes_per_second = bytes_per_second
        self._epoch = 0
        self._sequence = 1
        self._job_step = first_job_step
        self._requests: queue.Queue[pb.ReportRequest | None] = queue.Queue()
        hello = messages.hello(job_name=job, attempt=attempt)
        hello.hello.policy.adaptive = adaptive
        hello.hello.policy.max_millibits = millibits
        hello.hello.rates[0].millibits = millibits
        self._requests.put(hello)
        self._channel = grpc.insecure_channel(operator.address, options=[("grpc.enable_http_proxy", 0)])
        self._call = TelemetryServiceStub(self._channel).Report(self._outgoing())
        self._hearing = threading.Thread(target=self._hear, daemon=True)

    def __enter__(self) -> Self:
        self._hearing.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._requests.put(None)
        self._call.cancel()
        self._channel.close()
        self._hearing.join(10)

    def steps(self, count: int) -> None:
        for _ in range(count):
            self._sequence += 1
            self._requests.put(
                messages.step(
                    self._sequence,
                    self._job_step,
                    bytes_per_second=self._bytes_per_second,
                    millibits=self.millibits,
                    epoch=self._epoch,
                )
            )
            self._job_step += 1

    def steps_until(self, reached: Callable[[], bool]) -> None:
        """Step on, a little after the controller has heard each, until something holds."""

        def one() -> bool:
            self.steps(1)
            return reached()

        eventually(one)
        self.steps(1)

    def finish(self, *, succeeded: bool = True, message: str = "") -> None:
        self._sequence += 1
        finished = pb.RunFinished(succeeded=succeeded, message=message)
        self._requests.put(pb.ReportRequest(sequence=self._sequence, run_finished=finished))

    def code(self) -> grpc.StatusCode | None:
        """How the stream ended, if it did."""
        return self._call.code() if self._call.done() else None

    def _outgoing(self) -> Iterator[pb.ReportRequest]:
        while (request := self._requests.get()) is not None:
            yield request

    def _hear(self) -> None:
        try:
            for answer in self._call:
                directive = answer.directive
                if directive.epoch > self._epoch:
                    self._epoch = directive.epoch
                    self.millibits = directive.rates[0].millibits
        except grpc.RpcError:
            return
