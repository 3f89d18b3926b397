"""One look at a job through a launcher that is a table."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from thinwire.controller.job_record import Heard, JobKey, JobRecord
from thinwire.controller.job_store import JobStore
from thinwire.controller.plan import Attempt, Job, State, StopReason
from thinwire.controller.reconcile import Reconciler

KEY = JobKey("studio", "emoji")


@dataclass
class Found:
    """A launcher whose attempts are what they are."""

    found: tuple[Attempt, ...]

    async def attempts(self) -> tuple[Attempt, ...]:
        return self.found

    async def start(self, number: int) -> None:
        raise AssertionError(f"expected no start, got attempt {number}")

    async def stop(self, number: int, reason: StopReason) -> None:
        raise AssertionError(f"expected no stop, got attempt {number} ({reason})")


@pytest.mark.parametrize(
    ("exit_code", "state", "prompts_done"), [(0, State.SUCCEEDED, 8), (2, State.FAILED, 1)], ids=["well", "badly"]
)
def test_ranks_that_ended_well_made_every_prompt_also_where_their_last_words_did_not_arrive(
    exit_code: int, state: State, prompts_done: int
) -> None:
    store = JobStore()
    store.put(JobRecord(KEY, prompts_total=8, attempt=1, heard=Heard(attempt=1, steps_reported=40, prompts_done=1)))
    reconciler = Reconciler(KEY, Job(0.0), Found((Attempt(1, exit_code),)), store, lambda: 100.0)
    shown = asyncio.run(reconciler.once()).after
    assert (shown.state, shown.heard.prompts_done) == (state, prompts_done)
