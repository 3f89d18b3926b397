"""The controller of one local run: adopts what runs, serves gRPC, reconciles, and stays until its owner goes."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import structlog
from google.protobuf import json_format

from thinwire.controller.job_record import Heard, JobKey, JobRecord
from thinwire.controller.job_store import JobStore
from thinwire.controller.local import files, registry
from thinwire.controller.local.files import ControllerFile, RunFile, StateFolder
from thinwire.controller.local.launcher import LocalLauncher
from thinwire.controller.local.processes import Process
from thinwire.controller.plan import Job
from thinwire.controller.reconcile import Reconciler
from thinwire.controller.server import serve
from thinwire.proto.thinwire.v1alpha1.status_pb2 import JobPlan

HOST = "127.0.0.1"

_log = structlog.get_logger(__name__)


async def control(output: Path, owner: Process, port: int) -> None:
    """Look after the run in `output` until `owner` ends or this process is told to stop.

    Raises FileNotFoundError without a readable run.json, PortTakenError if the port cannot be had.
    """
    state = StateFolder(output)
    run = files.read(state.run, RunFile)
    if run is None:
        raise FileNotFoundError(f"{state.run} is missing or unreadable; start with `thinwire run`")
    store = JobStore()
    key = JobKey(run.namespace, run.name)
    store.put(_first_record(key, run, output))
    server, bound = await serve(store, HOST, port)
    address = f"{HOST}:{bound}"
    me = str(Process.of(os.getpid()))
    files.write(state.controller, ControllerFile(me, address, run.run_id))
    launcher = LocalLauncher(run, state, owner, address)
    reconciler = Reconciler(key, _job(run), launcher, store)
    _log.info("controller_ready", job=str(key), address=address, attempts=len(state.attempts()))
    with registry.registered(registry.Entry(me, address, run.namespace, run.name, str(output))):
        reconciling = asyncio.create_task(reconciler.run())
        ended = asyncio.create_task(_told_to_stop(owner))
        await asyncio.wait({reconciling, ended}, return_when=asyncio.FIRST_COMPLETED)
        if reconciling.done():
            reconciling.result()
            # Stay, so that the owner and `thinwire status` can still ask how it ended.
            await ended
        reconciling.cancel()
    await server.stop(grace=0.5)


def _first_record(key: JobKey, run: RunFile, output: Path) -> JobRecord:
    generation = run.run_spec.get("generation", {})
    prompts = generation.get("prompts", ())
    done = sum((output / "images" / f"{prompt['name']}.png").exists() for prompt in prompts)
    return JobRecord(
        key,
        heard=Heard(prompts_done=done),
        prompts_total=len(prompts),
        steps_per_prompt=int(generation.get("steps", 0)),
        link_is_emulated=bool(run.run_spec.get("emulated_link")),
        start_seconds=run.started_seconds,
        plan=json_format.ParseDict(run.plan, JobPlan()) if run.plan else None,
    )


def _job(run: RunFile) -> Job:
    return Job(
        created_seconds=run.started_seconds,
        active_deadline_seconds=run.active_deadline_seconds,
        max_restarts=run.max_restarts,
        first_attempt=run.first_attempt,
    )


async def _told_to_stop(owner: Process) -> None:
    """Return when the owner has died, or on SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        descriptor = os.pidfd_open(owner.pid)
    except ProcessLookupError:
        return
    loop.add_reader(descriptor, stop.set)
    if owner.alive:
        await stop.wait()
    loop.remove_reader(descriptor)
    os.close(descriptor)
