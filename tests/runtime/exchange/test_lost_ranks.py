"""A rank that dies, or goes silent, ends its group soon in every strategy, and all others say whom they lost.

Rank 1 is the neighbour of only some of the ranks: those that wait for another rank, which waits for it, name it too.
"""

import itertools
import os
import re
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from torch.distributed import TCPStore

from tests.harness.ranks import RankError, run_ranks
from tests.harness.sessions import DISTRIFUSION, GATHER, OFF, SD3, Job, run_job
from thinwire.runtime.collective import limit_waiting
from thinwire.runtime.exchange.boundary import StepBoundary
from thinwire.runtime.exchange.untouched import UntouchedSteps
from thinwire.runtime.parallel import Degrees, Launch, open_world
from thinwire.runtime.roll_call import LostRankError, naming_lost_ranks

pytestmark = pytest.mark.distributed
STEPS = (StepBoundary, UntouchedSteps)
LOST = re.compile(r"^\S*LostRankError: rank 1 is lost, without an answer .* failed with: \S.*$", re.MULTILINE)
CLOSED = re.compile(r"^\S*LostRankError: .*[Cc]onnection.*$", re.MULTILINE)
STRATEGIES: dict[str, dict[str, Any]] = {
    "ring": {"ring": 2},
    "ulysses": {"ulysses": 2},
    "gather": {"ring": 2, "patch_mode": GATHER},
    "distrifusion": {"ring": 2, "patch_mode": DISTRIFUSION},
    "pipefusion": {"pipefusion": 2},
    "cfg": {"cfg": 2},
    "data": {"data": 2, "prompts": ("a red heart", "a pizza")},
    "ring of four": {"ring": 4},
    "ring without codec": {"ring": 2, "mode": OFF},
    "cfg x pipefusion without codec": {"cfg": 2, "pipefusion": 2, "mode": OFF},
}


def job_of(tiny_sd3: Path, strategy: str) -> Job:
    return Job(tiny_sd3, SD3, **{"ring": 1, "millibits": 4000, "steps": 8} | STRATEGIES[strategy])


def signalling(launch: Launch, number: int) -> AbstractContextManager[object]:
    """On rank 1, at the end of step 3, do to itself what `number` does; every rank waits for others 10 s at most."""
    limit_waiting(10.0)
    if launch.rank != 1:
        return nullcontext()
    stack = ExitStack()
    for steps in STEPS:
        stack.enter_context(patch.object(steps, "end_step", _dying(steps.end_step, number)))
    return stack


def _dying(end_step: Callable[[Any], None], number: int) -> Callable[[Any], None]:
    calls = itertools.count()

    def end_step_or_die(self: Any) -> None:
        if next(calls) == 3:
            os.kill(os.getpid(), number)
        end_step(self)

    return end_step_or_die


def killed(launch: Launch) -> AbstractContextManager[object]:
    return signalling(launch, signal.SIGKILL)


def stopped(launch: Launch) -> AbstractContextManager[object]:
    return signalling(launch, signal.SIGSTOP)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_rank_that_dies_ends_the_others_at_once(tiny_sd3: Path, strategy: str) -> None:
    with pytest.raises(RankError) as raised:
        run_job(job_of(tiny_sd3, strategy), meddle=killed)
    sentence = str(raised.value)
    assert "rank 1 died without a word" in sentence
    assert "did not end in time" not in sentence
    others = job_of(tiny_sd3, strategy).world_size - 1
    assert len(LOST.findall(sentence)) == others
    assert len(CLOSED.findall(sentence)) == others


@pytest.mark.parametrize("strategy", ["ring of four", "pipefusion"])
def test_a_rank_that_goes_silent_is_given_up_within_the_peer_timeout(tiny_sd3: Path, strategy: str) -> None:
    with pytest.raises(RankError) as raised:
        run_job(job_of(tiny_sd3, strategy), meddle=stopped, never_ending=[1])
    sentence = str(raised.value)
    assert "rank 1 did not end in time" in sentence
    assert len(LOST.findall(sentence)) == job_of(tiny_sd3, strategy).world_size - 1
    assert "did not end in time" not in sentence.replace("rank 1 did not end in time", "")
    assert "Timed out" in sentence or "timeout" in sentence.lower()


def test_a_fault_of_a_rank_s_own_is_not_taken_for_a_lost_one() -> None:
    with pytest.raises(RuntimeError, match="out of memory"), naming_lost_ranks():
        raise RuntimeError("out of memory")


def come_if_not_rank_1(launch: Launch, port: int) -> str:
    """Meet the others in a store of the parent's, as ranks of torchrun do."""
    if launch.rank == 1:
        return ""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    with pytest.raises(LostRankError) as caught:
        open_world(Degrees(ring=3), replace(launch, init_method="env://", timeout_seconds=2.0))
    return str(caught.value)


def test_a_rank_that_never_comes_is_named_before_there_is_a_group_to_call_the_roll_in() -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    said = run_ranks(3, come_if_not_rank_1, store.port)
    named = re.compile(r"rank 1(, \d)? has not come within 2 s of the others, silent or still starting: .*timeout.*")
    assert any(named.fullmatch(sentence) for sentence in said), said
