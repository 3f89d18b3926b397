"""The loop that makes a job's plan come true: look, plan, act, show; again after a change or after a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

import structlog

from thinwire.controller.job_record import JobKey, JobRecord
from thinwire.controller.job_store import JobStore
from thinwire.controller.launcher import Launcher, LaunchError
from thinwire.controller.plan import Attempt, Job, Plan, StartAttempt, State, StopAttempt, Telemetry, plan

LOOK_AGAIN_SECONDS = 0.25

_log = structlog.get_logger(__name__)


class Reconciler:
    """Brings one job to its end through a launcher. Launcher calls run beside the event loop, one at a time."""

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
            record, idle = await self.once()
            if record.state.ended and idle:
                return record
            await asyncio.sleep(LOOK_AGAIN_SECONDS)

    async def once(self) -> tuple[JobRecord, bool]:
        """One pass. Returns the snapshot it leaves and whether no attempt runs."""
        attempts = await asyncio.to_thread(self._launcher.attempts)
        record = self._store.get(self._key)
        assert record is not None
        decided = plan(self._job, attempts, _telemetry(record), self._clock())
        decided = await self._act(decided)
        if decided.state.ended and not self._job.state.ended:
            _log.info("job_ended", job=str(self._key), state=str(decided.state), message=decided.message)
            self._job = replace(self._job, state=decided.state, message=decided.message)
        now = self._clock()
        record = self._store.update(self._key, lambda before: _shown(before, decided, attempts, now))
        return record, all(attempt.exit_code is not None for attempt in attempts)

    async def _act(self, decided: Plan) -> Plan:
        for action in decided.actions:
            match action:
                case StopAttempt(number, reason):
                    _log.info("attempt_stopping", job=str(self._key), attempt=number, reason=str(reason))
                    await asyncio.to_thread(self._launcher.stop, number, reason)
                case StartAttempt(number):
                    try:
                        await asyncio.to_thread(self._launcher.start, number)
                    except LaunchError as error:
                        return replace(decided, state=State.FAILED, message=str(error))
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
    shown = replace(
        record,
        state=decided.state,
        message=decided.message,
        restarts=decided.restarts,
        attempt=newest,
        completion_seconds=(record.completion_seconds or now_seconds) if ended else 0.0,
    )
    return shown if _differs(shown, record) else record


def _differs(one: JobRecord, other: JobRecord) -> bool:
    def visible(record: JobRecord) -> tuple[object, ...]:
        return record.state, record.message, record.restarts, record.attempt, record.completion_seconds

    return visible(one) != visible(other)
