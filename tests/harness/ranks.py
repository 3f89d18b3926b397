"""Run one function in several ranks that are forked from one process, so that torch and xfuser are imported once.

That process is multiprocessing's fork server, not the test's own: a process that has computed with several threads
leaves its forks an OpenMP pool without threads, and they wait for it for ever.
A rank that raises fails the test with its traceback; ranks that do not end in time are killed and named.
"""

import multiprocessing
import os
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable, Collection
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from thinwire.runtime.parallel import Launch


class RankError(AssertionError):
    """What went wrong, rank by rank."""


def run_ranks(
    world_size: int,
    function: Callable[..., Any],
    *arguments: Any,
    local_world_size: int | None = None,
    timeout_seconds: float = 60.0,
    never_ending: Collection[int] = (),
) -> list[Any]:
    """Call `function(launch, *arguments)` in every rank and return what each returned, by rank.

    Function, arguments and results must pickle. never_ending: ranks that are killed, as late, once the others are over.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.harness.warm"])
    local = local_world_size or world_size
    with tempfile.TemporaryDirectory(prefix="thinwire-ranks-") as folder:
        launches = [
            Launch(rank, world_size, rank % local, local, f"file://{folder}/rendezvous", timeout_seconds)
            for rank in range(world_size)
        ]
        ranks: list[BaseProcess] = [
            context.Process(target=_rank, args=(launch, function, arguments, Path(folder)), daemon=True)
            for launch in launches
        ]
        for rank in ranks:
            rank.start()
        late = _wait(ranks, time.monotonic() + timeout_seconds, never_ending)
        return _collect(Path(folder), world_size, late)


def _rank(launch: Launch, function: Callable[..., Any], arguments: tuple[Any, ...], folder: Path) -> None:
    try:
        os.environ.update(
            RANK=str(launch.rank),
            WORLD_SIZE=str(launch.world_size),
            LOCAL_RANK=str(launch.local_rank),
            LOCAL_WORLD_SIZE=str(launch.local_world_size),
        )
        outcome: tuple[bool, Any] = (True, function(launch, *arguments))
    except BaseException:
        outcome = (False, traceback.format_exc())
    (folder / f"{launch.rank}.partial").write_bytes(pickle.dumps(outcome))
    (folder / f"{launch.rank}.partial").rename(folder / f"{launch.rank}.outcome")


def _wait(ranks: list[BaseProcess], deadline: float, never_ending: Collection[int]) -> list[int]:
    """Wait for the ranks until the deadline; kill and return those that are late."""
    running = {process.sentinel: number for number, process in enumerate(ranks)}
    while set(running.values()) - set(never_ending) and (left := deadline - time.monotonic()) > 0:
        for sentinel in wait(list(running), timeout=left):
            del running[sentinel]  # type: ignore[arg-type]
    for process in ranks:
        process.kill()
        process.join()
    return list(running.values())


def _collect(folder: Path, world_size: int, late: list[int]) -> list[Any]:
    results: list[Any] = []
    problems: list[str] = [f"rank {rank} did not end in time" for rank in late]
    for rank in range(world_size):
        path = folder / f"{rank}.outcome"
        if not path.exists():
            if rank not in late:
                problems.append(f"rank {rank} died without a word")
            continue
        succeeded, value = pickle.loads(path.read_bytes())
        if succeeded:
            results.append(value)
        else:
            problems.append(f"rank {rank} raised:\n{value}")
    if problems:
        raise RankError("\n".join(problems))
    return results
