"""Run one function in several ranks that are forked from this process, so that torch and xfuser are imported once.

A rank that raises fails the test with its traceback; ranks that do not end in time are killed and named.
"""

import os
import pickle
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from thinwire.runtime.parallel import Launch
from thinwire.runtime.shims import import_xfuser


class RankError(AssertionError):
    """What went wrong, rank by rank."""


def run_ranks(
    world_size: int,
    function: Callable[..., Any],
    *arguments: Any,
    local_world_size: int | None = None,
    timeout_seconds: float = 60.0,
) -> list[Any]:
    """Call `function(launch, *arguments)` in every rank and return what each returned, by rank (it must pickle)."""
    import_xfuser()
    local = local_world_size or world_size
    with tempfile.TemporaryDirectory(prefix="thinwire-ranks-") as folder:
        launches = [
            Launch(rank, world_size, rank % local, local, f"file://{folder}/rendezvous", timeout_seconds)
            for rank in range(world_size)
        ]
        children = {_fork(launch, function, arguments, Path(folder)): launch.rank for launch in launches}
        late = _wait(dict(children), time.monotonic() + timeout_seconds)
        return _collect(Path(folder), world_size, late)


def _fork(launch: Launch, function: Callable[..., Any], arguments: tuple[Any, ...], folder: Path) -> int:
    child = os.fork()
    if child:
        return child
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
    try:
        (folder / f"{launch.rank}.partial").write_bytes(pickle.dumps(outcome))
        (folder / f"{launch.rank}.partial").rename(folder / f"{launch.rank}.outcome")
    finally:
        os._exit(0)


def _wait(children: dict[int, int], deadline: float) -> list[int]:
    """Reap the children until the deadline; kill and return the ranks that are late."""
    while children and time.monotonic() < deadline:
        child = _reap_any(children)
        children.pop(child, None)
        if not child:
            time.sleep(0.005)
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return list(children.values())


def _reap_any(children: dict[int, int]) -> int:
    for child in children:
        reaped, _ = os.waitpid(child, os.WNOHANG)
        if reaped:
            return reaped
    return 0


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
