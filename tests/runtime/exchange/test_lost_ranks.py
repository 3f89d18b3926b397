"""A rank that dies, or goes silent, ends its group soon in every strategy, and the others say whom they lost."""

import os
import signal
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from tests.harness.ranks import RankError
from tests.harness.sessions import DISTRIFUSION, GATHER, SD3, Job, run_job
from thinwire.runtime.collective import limit_waiting
from thinwire.runtime.exchange.boundary import StepBoundary
from thinwire.runtime.parallel import Launch

pytestmark = pytest.mark.distributed
STRATEGIES: dict[str, dict[str, Any]] = {
    "ring": {"ring": 2},
    "ulysses": {"ulysses": 2},
    "gather": {"ring": 2, "patch_mode": GATHER},
    "distrifusion": {"ring": 2, "patch_mode": DISTRIFUSION},
    "pipefusion": {"pipefusion": 2},
    "cfg": {"cfg": 2},
    "data": {"data": 2, "prompts": ("a red heart", "a pizza")},
}


def job_of(tiny_sd3: Path, strategy: str) -> Job:
    return Job(tiny_sd3, SD3, **{"ring": 1, "millibits": 4000, "steps": 8} | STRATEGIES[strategy])


def signalling(launch: Launch, number: int) -> AbstractContextManager[object]:
    """On rank 1, at the end of step 3, do to itself what `number` does; every rank waits for others 10 s at most."""
    limit_waiting(10.0)
    if launch.rank != 1:
        return nullcontext()
    end_step = StepBoundary.end_step

    def end_step_or_die(self: StepBoundary) -> None:
        if self.moment.step == 3:
            os.kill(os.getpid(), number)
        end_step(self)

    return patch.object(StepBoundary, "end_step", end_step_or_die)


def killed(launch: Launch) -> AbstractContextManager[object]:
    return signalling(launch, signal.SIGKILL)


def stopped(launch: Launch) -> AbstractContextManager[object]:
    return signalling(launch, signal.SIGSTOP)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_rank_that_dies_ends_the_others_at_once(tiny_sd3: Path, strategy: str) -> None:
    began = time.monotonic()
    with pytest.raises(RankError) as raised:
        run_job(job_of(tiny_sd3, strategy), meddle=killed, timeout_seconds=50)
    sentence = str(raised.value)
    assert "rank 1 died without a word" in sentence
    assert "rank 0 raised" in sentence
    assert "Connection" in sentence
    assert "did not end in time" not in sentence
    assert time.monotonic() - began < 50


@pytest.mark.parametrize("strategy", ["pipefusion", "distrifusion"])
def test_a_rank_that_goes_silent_is_given_up_within_the_peer_timeout(tiny_sd3: Path, strategy: str) -> None:
    with pytest.raises(RankError) as raised:
        run_job(job_of(tiny_sd3, strategy), meddle=stopped, timeout_seconds=40)
    sentence = str(raised.value)
    assert "rank 0 raised" in sentence
    assert "rank 1 did not end in time" in sentence
    assert "Timed out" in sentence or "timeout" in sentence.lower()
