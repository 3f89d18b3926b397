"""Who is missing when an exchange with the others has failed.

A process group says that a connection was closed or that time ran out, and at best an address. Nor is it always the
neighbour: in a ring of four the rank that one waits for may itself wait for the one that is gone. So whoever finds an
exchange broken calls the roll in the store where the ranks once met, and whoever does not answer is lost.

A thread of every rank answers, so that it does not matter what the rank itself computes or waits for.
"""

import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog
import torch.distributed as dist
from torch._C._distributed_c10d import Store
from torch.distributed import distributed_c10d

PATIENCE_SECONDS = 5.0
"""For answers; a rank that lives looks for a call every `_LOOK_SECONDS`. The store itself has twice as long."""

_LOOK_SECONDS = 0.5
_LOOK_FOR_ANSWERS_SECONDS = 0.05
_CALL = "thinwire/roll-call"

_log = structlog.get_logger(__name__)


class LostRankError(RuntimeError):
    """An exchange failed; the message names the ranks that are gone or silent, and what the exchange said of it."""


def answer_roll_calls() -> Callable[[], None]:
    """Have a thread answer for this rank from now on, once the process group is there; returns what ends it."""
    over = threading.Event()
    if dist.get_world_size() > 1:
        store, answer = _store(), _answer_of(dist.get_rank())
        threading.Thread(target=_answer, args=(store, answer, over), name="thinwire-roll-call", daemon=True).start()
    return over.set


@contextmanager
def naming_absent_ranks(seconds: float) -> Iterator[None]:
    """Say who has not come when the ranks meet; no roll can be called before they have.

    seconds: how long they wait for each other.
    Raises:
        LostRankError: in place of the store's own error, which is its cause.
    """
    try:
        yield
    except dist.DistStoreError as error:
        first_line, *_ = str(error).strip().splitlines() or [""]
        awaited = re.search(r"keys: (.+)$", first_line)
        # gloo waits for one key of each rank, which ends in its number.
        absent = re.findall(r"/(\d+)(?=,|$)", awaited[1]) if awaited else []
        names = f"rank {', '.join(absent)}" if absent else "a rank"
        raise LostRankError(
            f"{names} has not come within {seconds:g} s of the others, silent or still starting: {first_line}"
        ) from error


@contextmanager
def naming_lost_ranks() -> Iterator[None]:
    """Call the roll when an exchange with other ranks fails in here.

    Raises:
        LostRankError: in place of the process group's own error, which is its cause.
    """
    try:
        yield
    except LostRankError:
        raise
    except RuntimeError as error:
        if not (_is_of_the_process_group(error) and dist.is_initialized() and dist.get_world_size() > 1):
            raise
        raise LostRankError(_sentence(error)) from error


def _is_of_the_process_group(error: RuntimeError) -> bool:
    """Tell a broken exchange from a rank's own fault; gloo has no class of its own, but its errors name its files."""
    return isinstance(error, dist.DistError) or "/gloo/" in str(error)


def _sentence(error: RuntimeError) -> str:
    first_line, *_ = str(error).strip().splitlines() or [""]
    rank, world_size = dist.get_rank(), dist.get_world_size()
    try:
        missing = _missing_in_time(rank, world_size)
    except RuntimeError as unreachable:
        return (
            f"the store where the {world_size} ranks met does not answer ({unreachable}), so the node that keeps it is "
            f"lost, or the link to it; the exchange of rank {rank} failed with: {first_line}"
        )
    if not missing:
        return (
            f"a connection broke, though all {world_size} ranks live; the exchange of rank {rank} failed with: "
            f"{first_line}"
        )
    names = f"rank {missing[0]} is" if len(missing) == 1 else f"ranks {', '.join(map(str, missing))} are"
    return (
        f"{names} lost, without an answer for {PATIENCE_SECONDS:g} s; the exchange of rank {rank} failed with: "
        f"{first_line}"
    )


def _missing_in_time(rank: int, world_size: int) -> list[int]:
    """Do as `_missing`, but do not wait for a store behind a link that is cut, as its client would, for minutes."""
    found: queue.SimpleQueue[list[int] | RuntimeError] = queue.SimpleQueue()

    def call() -> None:
        try:
            found.put(_missing(rank, world_size))
        except RuntimeError as error:
            found.put(error)

    threading.Thread(target=call, name="thinwire-roll-call", daemon=True).start()
    try:
        missing = found.get(timeout=2 * PATIENCE_SECONDS)
    except queue.Empty:
        raise RuntimeError(f"nothing for {2 * PATIENCE_SECONDS:g} s") from None
    if isinstance(missing, RuntimeError):
        raise missing
    return missing


def _missing(rank: int, world_size: int) -> list[int]:
    """Call the roll and return the ranks that do not answer."""
    store, answers = _store(), [_answer_of(other) for other in range(world_size)]
    store.set(answers[rank], "here")
    store.set(_CALL, "called")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not store.check(answers):
        if time.monotonic() > deadline:
            return [other for other, answer in enumerate(answers) if not store.check([answer])]
        time.sleep(_LOOK_FOR_ANSWERS_SECONDS)
    return []


def _answer(store: Store, answer: str, over: threading.Event) -> None:
    try:
        while not over.wait(_LOOK_SECONDS):
            if store.check([_CALL]):
                store.set(answer, "here")
                return
    except RuntimeError as error:  # its host is gone: so is the job, as the exchanges will say
        _log.info("roll_call.store_gone", reason=str(error))


def _answer_of(rank: int) -> str:
    return f"{_CALL}/{rank}"


def _store() -> Store:
    """Return the store that the ranks met in, with names of this process group's own."""
    return distributed_c10d._get_default_store()  # noqa: SLF001 - torch has no public way to it
