"""A controller on a lab's switch: the real server, with one job in it, until it is killed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.harness.programs import DIES_WITH_US
from tests.netlab.lab import SWITCH_ADDRESS, Lab
from thinwire.controller.job_record import JobKey, JobRecord
from thinwire.controller.job_store import JobStore
from thinwire.controller.server import serve


@contextmanager
def controller(lab: Lab, namespace: str, job: str) -> Iterator[str]:
    """Serve telemetry of a job on the switch of `lab`; yields what its ranks dial."""
    inside = ("ip", "netns", "exec", lab.switch_namespace)
    command = [*DIES_WITH_US, *inside, sys.executable, "-m", __name__, namespace, job]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        assert port.isdigit(), f"expected the controller's port, got {port!r}"
        yield f"{SWITCH_ADDRESS}:{port}"
    finally:
        process.kill()
        process.wait()


async def _serve(namespace: str, job: str) -> None:
    store = JobStore()
    store.put(JobRecord(JobKey(namespace, job)))
    server, port = await serve(store, SWITCH_ADDRESS, 0)
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))
