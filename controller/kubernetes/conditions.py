"""The conditions of a DiffusionJob: each is there from the beginning, with a reason in one word and a sentence."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from thinwire.controller.job_record import JobRecord
from thinwire.controller.kubernetes.diagnosis import Cause
from thinwire.controller.kubernetes.resources import Raw
from thinwire.controller.kubernetes.times import timestamp
from thinwire.controller.plan import State

_LONGEST_MESSAGE = 4000


@dataclass(frozen=True, slots=True)
class Gang:
    """How many pods of the present attempt are ready and made, of how many, and what it waits for or ended by."""

    ready: int = 0
    pods: int = 0
    cause: Cause | None = None
    made: int = 0


@dataclass(frozen=True, slots=True)
class _Condition:
    kind: str
    holds: bool
    reason: str
    message: str


def conditions(record: JobRecord, raw: Raw, gang: Gang, before: Iterable[Raw], now_seconds: float) -> list[Raw]:
    """All conditions; one whose status did not change keeps its time."""
    known = {one["type"]: one for one in before}
    shown = []
    for one in _all(record, raw, gang, known):
        status = "True" if one.holds else "False"
        last = known.get(one.kind)
        unchanged = last is not None and last["status"] == status
        shown.append(
            {
                "type": one.kind,
                "status": status,
                "observedGeneration": raw["metadata"]["generation"],
                "lastTransitionTime": last["lastTransitionTime"] if last and unchanged else timestamp(now_seconds),
                "reason": _word(one.reason),
                "message": one.message[:_LONGEST_MESSAGE],
            }
        )
    return shown


def _all(record: JobRecord, raw: Raw, gang: Gang, known: Mapping[str, Raw]) -> tuple[_Condition, ...]:
    state = record.state
    word = gang.cause.reason if gang.cause is not None else str(state)
    suspended = state is State.SUSPENDED
    return (
        _Condition(
            "Suspended", suspended, "Suspended" if suspended else "NotSuspended", record.message if suspended else ""
        ),
        _pods_ready(record, gang),
        _running(record, word),
        _ended("Succeeded", state is State.SUCCEEDED, "AllPromptsDone", record),
        _ended("Failed", state is State.FAILED, _first_reason(known.get("Failed"), word), record),
        _compressing(record, raw),
    )


def _running(record: JobRecord, word: str) -> _Condition:
    if record.state is State.RUNNING:
        return _Condition("Running", True, "StepsReported", "rank 0 reports steps")
    if record.state.ended:
        return _Condition("Running", False, "Ended", "the job has ended")
    return _Condition("Running", False, word, record.message)


def _pods_ready(record: JobRecord, gang: Gang) -> _Condition:
    ready = bool(gang.pods) and gang.ready >= gang.pods and not record.state.ended
    count = f"{gang.ready} of {gang.pods} pods are ready" if gang.pods else "there are no pods"
    if ready:
        return _Condition("PodsReady", True, "AllPodsReady", count)
    if record.state.ended:
        return _Condition("PodsReady", False, "Ended", "the job has ended")
    if gang.cause is not None:
        return _Condition("PodsReady", False, gang.cause.reason, f"{count}: {gang.cause.message}")
    return _Condition("PodsReady", False, "PodsStarting" if gang.pods else "NoPods", count)


def _first_reason(known: Raw | None, reason: str) -> str:
    """A job fails once: what is found out later, when its pods are gone, is no better reason."""
    return str(known["reason"]) if known is not None and known["status"] == "True" else reason


def _ended(kind: str, holds: bool, reason: str, record: JobRecord) -> _Condition:
    if holds:
        return _Condition(kind, True, reason, record.message)
    return _Condition(kind, False, "Ended" if record.state.ended else "NotEnded", "")


def _compressing(record: JobRecord, raw: Raw) -> _Condition:
    if (raw["spec"].get("compression") or {}).get("mode") == "Off":
        return _Condition("Compressing", False, "ModeOff", "spec.compression.mode is Off")
    tuner = record.heard.tuner
    if tuner is None or record.state is not State.RUNNING:
        return _Condition("Compressing", False, "NotRunning", "")
    whole = max((rung.millibits for rung in tuner.ladder), default=0)
    coded = [link for link in tuner.links if link.millibits < whole]
    rates = ", ".join(f"{link.link_class} at {link.millibits / 1000:g} bits a value" for link in coded)
    if coded:
        return _Condition("Compressing", True, "RateInForce", rates)
    return _Condition("Compressing", False, "LinkIsFastEnough", "values travel whole")


def _word(reason: str) -> str:
    """A reason as a condition may have it, whatever a pod gave for one."""
    return re.sub(r"[^A-Za-z0-9_]", "", reason).lstrip("0123456789_")[:256] or "Unknown"
