"""`python -m bench.operator_scale.streams ADDRESS JOBS`: rank 0 of so many jobs, each at one report a second.

One process, one channel for every hundred jobs, as pods of a node would not share but a load generator may. A stream
that breaks comes back like the runtime's own, after a pause of up to five seconds. Prints a line of JSON a second.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time

import grpc

from tests.controller import messages
from thinwire.proto.thinwire.v1alpha1 import telemetry_pb2 as pb
from thinwire.proto.thinwire.v1alpha1.telemetry_pb2_grpc import TelemetryServiceStub

SHARED_BY = 100
_OPTIONS = [("grpc.enable_http_proxy", 0), ("grpc.max_reconnect_backoff_ms", 5000)]


class Fleet:
    """Belongs to the event loop that it is made in, as gRPC's channels do."""

    def __init__(self, address: str, jobs: int) -> None:
        self.jobs = jobs
        self.open = 0
        self.sent = 0
        self.directives = 0
        count = -(-jobs // SHARED_BY)
        # A distinct argument keeps gRPC from folding equal channels into one connection.
        self._channels = [
            grpc.aio.insecure_channel(address, options=[*_OPTIONS, ("thinwire.bench", index)]) for index in range(count)
        ]

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(self.jobs):
                tasks.create_task(self._report(number))
            tasks.create_task(self._tell())

    async def _tell(self) -> None:
        while True:
            print(json.dumps({"open": self.open, "sent": self.sent, "directives": self.directives}), flush=True)
            await asyncio.sleep(1.0)

    async def _report(self, number: int) -> None:
        sequence, job_step = 1, 0
        stub = TelemetryServiceStub(self._channels[number // SHARED_BY])
        randomly = random.Random(number)  # noqa: S311 - a load, no secret
        await asyncio.sleep(randomly.random())
        pause = 0.1
        while True:
            call = stub.Report()  # type: ignore[call-arg]  # written to later, which the stubs do not know
            hearing = asyncio.create_task(self._hear(call))
            is_open = False
            try:
                await call.write(messages.hello(sequence, job_name=name_of(number)))
                sequence += 1
                await asyncio.sleep(0.2)
                if call.done():
                    raise ConnectionError
                is_open, pause = True, 0.1
                self.open += 1
                due = time.monotonic()
                while not call.done():
                    await call.write(self._step(sequence, job_step, randomly))
                    sequence, job_step, self.sent = sequence + 1, job_step + 1, self.sent + 1
                    due += 1.0
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError, ConnectionError):
                pass
            finally:
                self.open -= is_open
                hearing.cancel()
                call.cancel()
            pause = min(2 * pause, 5.0)
            await asyncio.sleep(pause * randomly.uniform(0.5, 1.0))

    async def _hear(self, call: grpc.aio.StreamStreamCall[pb.ReportRequest, pb.ReportResponse]) -> None:
        try:
            async for _ in call:
                self.directives += 1
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            return

    def _step(self, sequence: int, job_step: int, randomly: random.Random) -> pb.ReportRequest:
        return messages.step(sequence, job_step, bytes_per_second=50e6 * randomly.uniform(0.9, 1.1))


def name_of(number: int) -> str:
    return f"job-{number}"


async def report(address: str, jobs: int) -> None:
    await Fleet(address, jobs).run()


if __name__ == "__main__":
    asyncio.run(report(sys.argv[1], int(sys.argv[2])))
