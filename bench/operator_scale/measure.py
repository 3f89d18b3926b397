"""One run of `bench operator`: a controller on one core, the API server, etcd and the ranks on the others."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import psutil

from bench.about import origin
from bench.operator_scale.figures import Figures, quantiles
from bench.operator_scale.streams import name_of
from tests.cluster.binaries import found
from tests.cluster.control_plane import ControlPlane, control_plane
from tests.cluster.gangs import BATCH
from tests.cluster.jobs_api import JobsApi
from tests.cluster.operating import make_surroundings, submit
from tests.cluster.operator_process import OperatorProcess, operator_process
from tests.controller.waiting import eventually

_CORES = tuple(sorted(os.sched_getaffinity(0)))
_REACTIONS = 60
_SAMPLE_SECONDS = 0.5


@dataclass(frozen=True)
class Setting:
    jobs: int
    seconds: float


def measure(setting: Setting) -> dict[str, Any]:
    """Start everything, measure start, steady state, reactions and a restart; return the raw figures."""
    load_before = os.getloadavg()[0]
    with control_plane(found()) as plane, plane.api_client() as api_client:
        jobs = JobsApi(api_client)
        jobs.install_crd()
        make_surroundings(jobs)
        say = _Progress(setting.jobs)
        with on_one_core(plane) as operator:
            eventually(lambda: operator.logged("controller_ready"), within_seconds=120)
            idle = psutil.Process(operator.process.pid).memory_info().rss
            created = _create(jobs, setting.jobs, say)
            with streams(operator.address, setting.jobs) as ranks, sampled(operator) as sampler:
                eventually(lambda: ranks.last.get("open", 0) >= setting.jobs, within_seconds=120)
                eventually(lambda: _in_line(operator) == 0, within_seconds=120)
                steady = _steady(operator, setting, say)
                reactions = _reactions(jobs, setting.jobs, say)
                operator.kill()
                say("killed the controller; waiting until all is as it was")
                began = time.monotonic()
                with on_one_core(plane, operator.grpc_port) as second:
                    eventually(lambda: _settled(second, ranks, setting.jobs), within_seconds=300)
                    restarted = time.monotonic() - began
        return {
            "jobs": setting.jobs,
            "steady_seconds": setting.seconds,
            "created_seconds": created,
            "idle_memory_mebibytes": idle / 2**20,
            "peak_memory_mebibytes": max(sampler.memory_bytes) / 2**20,
            "memory_mebibytes": [round(value / 2**20, 1) for value in sampler.memory_bytes],
            **steady,
            "reaction_seconds": quantiles(reactions),
            "restart_seconds": restarted,
            "about": {
                **origin("thinwire", "kubernetes", "grpcio"),
                "machine": f"{os.cpu_count()} cores; the controller has one of them",
                "load_before": load_before,
                "nice": os.nice(0),
            },
        }


def _create(jobs: JobsApi, count: int, say: Callable[[str], None]) -> float:
    """Submit all jobs; seconds until each has its gang."""
    began = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: submit(jobs, name_of(number)), range(count)))
    say(f"submitted in {time.monotonic() - began:.1f} s")
    eventually(lambda: _count(jobs) >= count, within_seconds=600)
    return time.monotonic() - began


def _count(jobs: JobsApi) -> int:
    """Gangs there are; asked for in the cheapest way, and not too often."""
    time.sleep(0.25)
    page = jobs.call("GET", BATCH, query=[("limit", "1")])
    return len(page["items"]) + int(page["metadata"].get("remainingItemCount", 0))


def _steady(operator: OperatorProcess, setting: Setting, say: Callable[[str], None]) -> dict[str, Any]:
    process = psutil.Process(operator.process.pid)
    before, cpu, began = Figures.of(operator.http("/metrics")), process.cpu_times(), time.monotonic()
    while (left := began + setting.seconds - time.monotonic()) > 0:
        say(f"steady state, {left:.0f} s left")
        time.sleep(min(left, 10.0))
    lasted = time.monotonic() - began
    after, spent = Figures.of(operator.http("/metrics")), process.cpu_times()
    return {
        "pass_seconds": after.quantiles_since(before, "thinwire_controller_reconcile_seconds"),
        "queue_seconds": after.quantiles_since(before, "thinwire_controller_queue_seconds"),
        "passes_per_second": after.since(before, "thinwire_controller_reconcile_seconds_count") / lasted,
        "status_writes_per_second": after.since(before, "thinwire_controller_status_writes_total") / lasted,
        "reports_per_second": after.since(before, "thinwire_controller_reports_total") / lasted,
        "reports_refused": after.since(before, "thinwire_controller_reports_refused_total"),
        "failures": after.since(before, "thinwire_controller_reconcile_failures_total"),
        "core_percent": 100 * (spent.user + spent.system - cpu.user - cpu.system) / lasted,
    }


def _reactions(jobs: JobsApi, count: int, say: Callable[[str], None]) -> list[float]:
    """Seconds from an edit of a job's manifest to the status that speaks of it, one job after the other."""
    say("measuring reactions to edits")
    seconds = []
    for index in range(_REACTIONS):
        name = name_of(index * count // _REACTIONS)
        most = 15000 - index
        edited = jobs.patch(name, {"spec": {"compression": {"rate": {"maxMillibits": most}}}})
        began, generation = time.monotonic(), edited["metadata"]["generation"]
        eventually(lambda name=name, wanted=generation: _observed(jobs, name) >= wanted)  # type: ignore[misc]
        seconds.append(time.monotonic() - began)
    return seconds


def _observed(jobs: JobsApi, name: str) -> int:
    return int(jobs.get(name).get("status", {}).get("observedGeneration", 0))


def _settled(operator: OperatorProcess, ranks: _Ranks, count: int) -> bool:
    """Whether a controller that took another's place knows and hears all jobs again."""
    if not operator.logged("controller_ready"):
        return False
    figures = Figures.of(operator.http("/metrics"))
    heard = figures.total("thinwire_controller_streams") >= count
    return heard and _in_line(operator) == 0 and ranks.last.get("open", 0) >= count


def _in_line(operator: OperatorProcess) -> float:
    return Figures.of(operator.http("/metrics")).total("thinwire_controller_queue_depth")


@contextlib.contextmanager
def on_one_core(plane: ControlPlane, grpc_port: int = 0) -> Iterator[OperatorProcess]:
    """A controller that has the last core to itself; everything that this process starts else has the others."""
    with operator_process(plane, "--no-leader-elect", grpc_port=grpc_port) as operator:
        own, others = {_CORES[-1]}, set(_CORES[:-1]) or set(_CORES)
        for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
            wanted = own if process.pid == operator.process.pid else others
            for thread in process.threads():
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(thread.id, wanted)
        yield operator


@dataclass
class _Ranks:
    last: dict[str, int] = field(default_factory=dict)


@contextlib.contextmanager
def streams(address: str, count: int) -> Iterator[_Ranks]:
    """The load generator, in a process of its own."""
    command = [sys.executable, "-m", "bench.operator_scale.streams", address, str(count)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    ranks, lines = _Ranks(), process.stdout

    def read() -> None:
        for line in lines:
            ranks.last = json.loads(line)

    threading.Thread(target=read, daemon=True).start()
    try:
        yield ranks
    finally:
        process.kill()
        process.wait()


@dataclass
class _Sampler:
    memory_bytes: list[int] = field(default_factory=list)


@contextlib.contextmanager
def sampled(operator: OperatorProcess) -> Iterator[_Sampler]:
    """Resident memory of the controller, twice a second, for as long as it lives."""
    sampler, stop = _Sampler(), threading.Event()
    process = psutil.Process(operator.process.pid)

    def sample() -> None:
        with contextlib.suppress(psutil.Error):
            while not stop.wait(_SAMPLE_SECONDS):
                sampler.memory_bytes.append(process.memory_info().rss)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield sampler
    finally:
        stop.set()
        thread.join()


class _Progress:
    def __init__(self, jobs: int) -> None:
        self._jobs, self._began = jobs, time.monotonic()

    def __call__(self, text: str) -> None:
        print(f"{self._jobs} jobs, {time.monotonic() - self._began:4.0f} s: {text}", flush=True)
