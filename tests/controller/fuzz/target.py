"""`python -m tests.controller.fuzz.target FOLDER`: a controller's server as a process to attack, with guard and TLS.

The API server's answers are this module's own: `calm` is the token of the well-behaved job's pod, `pod-N` those of the
attackers' pods, `reader` a person who may read in the attackers' namespace. Writes FOLDER/ca.crt, prints its port, and
keeps in FOLDER/read how many messages it has read: what follows the message that ended a stream is never looked at.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import sys
from datetime import UTC, datetime
from pathlib import Path

import grpc
import structlog

from tests.controller.fuzz.mutations import JOBS, NAMESPACE
from tests.controller.security.fakes import FakeCluster, pod_caller
from thinwire.controller.job_record import JobKey, JobRecord
from thinwire.controller.job_store import JobStore
from thinwire.controller.plan import State
from thinwire.controller.security.access import TELEMETRY_AUDIENCE, Access
from thinwire.controller.security.certificates import new_authority, new_serving
from thinwire.controller.security.cluster import Caller, JobPod
from thinwire.controller.security.guard import Guard
from thinwire.controller.security.open import Security
from thinwire.controller.security.refusals import Refusals
from thinwire.controller.security.serving import FolderSource, ServingCertificate
from thinwire.controller.server import serve

CALM = JobKey(NAMESPACE, "calm")


class Reader(FakeCluster):
    async def allows(self, caller: Caller, verb: str, namespace: str, name: str) -> bool:
        return caller.name == "reader" and namespace == NAMESPACE


class Counting(grpc.aio.ServerInterceptor):
    """Counts every message that is about to be parsed. The innermost: what the guard stops, it does not see."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("r+b")
        self._file.truncate(8)
        self._read = mmap.mmap(self._file.fileno(), 8)

    async def intercept_service(self, continuation, details):
        handler = await continuation(details)
        return handler and handler._replace(request_deserializer=self._counted(handler.request_deserializer))

    def _counted(self, parse):
        def counting(data: bytes):
            self._read[:] = (int.from_bytes(self._read[:], "little") + 1).to_bytes(8, "little")
            return parse(data) if parse is not None else data

        return counting


def answers() -> FakeCluster:
    names = {"calm": "calm", **{f"pod-{number}": f"job-{number}" for number in range(JOBS)}}
    return Reader(
        tokens={
            ("reader", ""): Caller("reader"),
            **{(token, TELEMETRY_AUDIENCE): pod_caller(NAMESPACE, token, uid=token) for token in names},
        },
        pods={(NAMESPACE, token): JobPod(token, job, 1) for token, job in names.items()},
    )


def write_certificate(folder: Path) -> None:
    authority = new_authority(datetime.now(UTC))
    serving = new_serving(authority, ["localhost", "127.0.0.1"], datetime.now(UTC))
    (folder / "ca.crt").write_bytes(authority.certificate)
    (folder / "tls.crt").write_bytes(serving.certificate)
    (folder / "tls.key").write_bytes(serving.key)


async def run(folder: Path) -> None:
    write_certificate(folder)
    certificate = ServingCertificate(FolderSource(folder))
    await certificate.refresh()
    refusals, cluster = Refusals(), answers()
    guard = Guard(Access(cluster), refusals)
    (folder / "read").touch()
    doors = (guard, Counting(folder / "read"))
    security = Security(certificate.credentials(), doors, refusals, certificate, cluster, NAMESPACE)  # type: ignore[arg-type]
    store = JobStore()
    for key in (CALM, *(JobKey(NAMESPACE, f"job-{number}") for number in range(JOBS))):
        store.put(JobRecord(key, state=State.RUNNING, attempt=1))
    _, port = await serve(store, "127.0.0.1", 0, security)
    print(port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )
    asyncio.run(run(Path(sys.argv[1])))
