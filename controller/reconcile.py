"""The loop that makes a job's plan come true: look, plan, act, show; again after a change or after a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from thinwire.controller.job_record import JobKey, JobRecord
from thinwire.controller.job_store import JobStore
from thinwire.controller.launcher import Launcher, LaunchError, NotYetError
from thinwire.controller.plan import Attempt, Job, Plan, StartAttempt, State, StopAttempt, Telemetry, plan

LOOK_AGAIN_SECONDS = 0.25
LOOK_FOR_IT_SECONDS = 10.0
"""How long an attempt that something is missing for waits before it looks whether that has come."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Pass:
    """What one look at a job led to: its snapshot before and after, the plan, and the attempts that it was made for."""

    before: JobRecord
    after: JobRecord
    decided: Plan
    attempts: tuple[Attempt, ...]

    @property
    def idle(self) -> bool:
        """Whether no attempt runs."""
        return all(attempt.exit_code is not None for attempt in self.attempts)


class Reconciler:
    """Brings one job to its end through a launcher."""

    def __init__(
        self, key: JobKey, job: Job, launcher: Launcher, store: JobStore, clock: Callable[[], float] = time.time
    ) -> None:
        self._key = key
        self._job = job
        self._launcher = launcher
        self._store = store
        self._clock = clock

    async def run(self) -> JobRecord:
        """Reconcile until the job has ended and nothing of it runs; return its last snapshot."""
        while True:
            done = await self.once()
            if done.after.state.ended and done.idle:
                return done.after
            await asyncio.sleep(LOOK_AGAIN_SECONDS)

    async def once(self) -> Pass:
        """One look, and what follows from it."""
        attempts = await self._launcher.attempts()
        before = self._record()
        decided = plan(self._job, attempts, _telemetry(before), self._clock())
        decided = await self._act(decided)
        if decided.state.ended and not self._job.state.ended:
            _log.info("job_ended", job=str(self._key), state=str(decided.state), message=decided.message)
            self._job = replace(self._job, state=decided.state, message=decided.message)
        now = self._clock()
        after = self._store.update(self._key, lambda record: _shown(record, decided, attempts, now))
        return Pass(before, after, decided, attempts)

    def _record(self) -> JobRecord:
        record = self._store.get(self._key)
        assert record is not None
        return record

    async def _act(self, decided: Plan) -> Plan:
        for action in decided.actions:
            match action:
                case StopAttempt(number, reason):
                    _log.info("attempt_stopping", job=str(self._key), attempt=number, reason=str(reason))
                    await self._launcher.stop(number, reason)
                case StartAttempt(number):
                    try:
                        await self._launcher.start(number)
                    except LaunchError as error:
                        return replace(decided, actions=(), state=State.FAILED, message=str(error), reason=error.reason)
                    except NotYetError as error:
                        return replace(
                            decided,
                            actions=(),
                            state=State.PENDING,
                            message=str(error),
                            reason=error.reason,
                            again_in_seconds=min(LOOK_FOR_IT_SECONDS, decided.again_in_seconds or LOOK_FOR_IT_SECONDS),
                        )
        return decided


def _telemetry(record: JobRecord) -> Telemetry:
    heard = record.heard
    finished = heard.finished
    failure = finished.message if finished is not None and not finished.succeeded else ""
    return Telemetry(heard.attempt, heard.steps_reported, failure)


def _shown(record: JobRecord, decided: Plan, attempts: tuple[Attempt, ...], now_seconds: float) -> JobRecord:
    started = [action.number for action in decided.actions if isinstance(action, StartAttempt)]
    newest = max([record.attempt, *started, *(attempt.number for attempt in attempts)])
    ended = decided.state.ended
    heard = record.heard
    if decided.state is State.SUCCEEDED:
        # Ranks end well only when every prompt is done, also where their last words did not arrive.
        heard = replace(heard, prompts_done=max(heard.prompts_done, record.prompts_total))
    shown = replace(
        record,
        state=decided.state,
        message=decided.message,
        restarts=decided.restarts,
        attempt=newest,
        completion_seconds=(record.completion_seconds or now_seconds) if ended else 0.0,
        heard=heard,
    )
    return shown if _differs(shown, record) else record


def _differs(one: JobRecord, other: JobRecord) -> bool:
    def visible(record: JobRecord) -> tuple[object, ...]:
        done = record.heard.prompts_done
        return record.state, record.message, record.restarts, record.attempt, record.completion_seconds, done

    return visible(one) != visible(other)
