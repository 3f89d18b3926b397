"""Events of a DiffusionJob: what `kubectl describe` tells as a story. What to say is a pure function of two moments."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import structlog

from thinwire.controller.job_record import Allowed, JobRecord
from thinwire.controller.kubernetes.api import Api, ApiError
from thinwire.controller.kubernetes.diagnosis import Cause
from thinwire.controller.kubernetes.resources import DIFFUSION_JOBS, EVENTS, Raw, name_of, namespace_of, uid_of
from thinwire.controller.kubernetes.times import micro_timestamp
from thinwire.controller.plan import State
from thinwire.controller.planner.announce import plan_sentence
from thinwire.controller.token_bucket import TokenBuckets
from thinwire.proto.thinwire.v1alpha1.telemetry_pb2 import Retune

_LONGEST_NOTE = 1024
_QUEUE = 4096
_BURST, _PER_SECOND = 25, 1 / 20
_REPORTER = "thinwire.dev/controller"
_ACTIONS = {State.RUNNING: "Run", State.SUCCEEDED: "Finish", State.FAILED: "Finish", State.SUSPENDED: "Suspend"}


_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Note:
    """One event: its reason in a word, a sentence, and whether somebody should look."""

    reason: str
    text: str
    is_warning: bool = False
    action: str = "Reconcile"


@dataclass(frozen=True, slots=True)
class Moment:
    """A job as it was shown last: its snapshot and what kept it from going on."""

    record: JobRecord
    cause: Cause | None = None


def notes_between(before: Moment, after: Moment) -> Iterator[Note]:
    """What a user would ask about, of all that happened between two moments."""
    old, new = before.record, after.record
    if new.attempt > old.attempt:
        yield Note("AttemptStarted", f"attempt {new.attempt} has begun: its pods are created", action="Start")
    if new.plan is not None and new.plan != old.plan:
        yield Note("Planned", plan_sentence(new.plan), action="Start")
    for retune in _news(old, new):
        yield Note("RateChanged", _told(retune), action="Retune")
    known = before.cause.reason if before.cause is not None else ""
    if after.cause is not None and after.cause.reason != known and new.state in (State.PENDING, State.STARTING):
        yield Note(after.cause.reason, after.cause.message, is_warning=True)
    if new.state is old.state:
        return
    action = _ACTIONS.get(new.state, "Reconcile")
    match new.state:
        case State.RUNNING:
            yield Note("Running", f"the ranks of attempt {new.attempt} make pictures", action=action)
        case State.RESTARTING:
            yield Note("Restarting", new.message, is_warning=True, action="Restart")
        case State.SUSPENDED:
            yield Note("Suspended", f"suspended with {_progress(new)}; the rest is made after resuming", action=action)
        case State.SUCCEEDED:
            yield Note("Succeeded", f"all prompts are done: {_progress(new)}", action=action)
        case State.FAILED:
            yield Note("Failed", f"{new.message} ({_progress(new)})", is_warning=True, action=action)


def controller_fault(error: Exception) -> Note:
    """That a pass over a job broke: the job would stand still without a word otherwise."""
    said = f"{type(error).__name__}: {error}"[:300]
    text = f"a fault of the controller ({said}); its log has the whole of it, and the job is tried again"
    return Note("ControllerFault", text, is_warning=True)


def limits_changed(allowed: Allowed) -> Note:
    """That an edit of the manifest reached the law."""
    least, most = allowed.min_millibits / 1000, allowed.max_millibits / 1000
    text = (
        f"the rate may be {least:g} to {most:g} bits a value now, at a stall of {allowed.target_stall_percent} percent"
    )
    return Note("RateLimitsChanged", text, action="Retune")


def _progress(record: JobRecord) -> str:
    return f"{record.heard.prompts_done} of {record.prompts_total} pictures"


def _news(old: JobRecord, new: JobRecord) -> Iterator[Retune]:
    """Retunes that came since; those that a Hello brought after the controller was away were told by the one before."""
    if new.retunes is old.retunes:
        return
    known = {_identity(retune) for retune in old.retunes}
    if old.heard.hello is None and new.heard.hello is not None:
        known |= {_identity(retune) for retune in new.heard.hello.retunes}
    yield from (retune for retune in new.retunes if _identity(retune) not in known)


def _identity(retune: Retune) -> tuple[object, ...]:
    return retune.job_step, retune.epoch, retune.link_class


def _told(retune: Retune) -> str:
    rates = f"{retune.from_millibits / 1000:g} to {retune.to_millibits / 1000:g} bits a value"
    place = f"{retune.link_class} links, {retune.prompt_name} step {retune.step + 1}"
    return f"{rates} ({place}): {retune.reason or 'no reason was told'}"


def event_of(job: Raw, note: Note, number: int, now_seconds: float) -> Raw:
    """The object that a note becomes."""
    return {
        "apiVersion": EVENTS.api_version,
        "kind": EVENTS.kind,
        "metadata": {
            "name": f"{name_of(job)}.{int(now_seconds * 1e6):x}.{number:x}",
            "namespace": namespace_of(job),
        },
        "eventTime": micro_timestamp(now_seconds),
        "reportingController": _REPORTER,
        "reportingInstance": f"{socket.gethostname()}-{os.getpid()}"[:128],
        "action": note.action,
        "reason": note.reason[:128],
        "type": "Warning" if note.is_warning else "Normal",
        "note": note.text[:_LONGEST_NOTE],
        "regarding": {
            "apiVersion": DIFFUSION_JOBS.api_version,
            "kind": DIFFUSION_JOBS.kind,
            "namespace": namespace_of(job),
            "name": name_of(job),
            "uid": uid_of(job),
        },
    }


class Recorder:
    """Writes events beside the passes over jobs. An event that cannot be written is lost, logged and counted."""

    def __init__(self, api: Api, clock: Callable[[], float] = time.time) -> None:
        self._api = api
        self._clock = clock
        self._waiting: asyncio.Queue[Raw] = asyncio.Queue(_QUEUE)
        self._allowed: TokenBuckets[str] = TokenBuckets(_BURST, _PER_SECOND)
        self._number = 0
        self.lost = 0

    def tell(self, job: Raw, note: Note) -> None:
        """Have an event of a job written soon; too many of one job are left out."""
        log = _log.warning if note.is_warning else _log.info
        log("job_event", job=f"{namespace_of(job)}/{name_of(job)}", reason=note.reason, note=note.text)
        if not self._allowed.take(uid_of(job)):
            self.lost += 1
            return
        self._number += 1
        try:
            self._waiting.put_nowait(event_of(job, note, self._number, self._clock()))
        except asyncio.QueueFull:
            self.lost += 1

    async def run(self) -> None:
        """Write what is told until cancelled."""
        while True:
            event = await self._waiting.get()
            try:
                await self._api.create(EVENTS, event)
            except ApiError as error:
                self.lost += 1
                _log.warning("event_lost", reason=event["reason"], status=error.status, why=str(error))
