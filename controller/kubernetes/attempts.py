"""A gang as the plan sees it, read from its Job and pods."""

from __future__ import annotations

from collections.abc import Sequence

from thinwire.controller.kubernetes.diagnosis import ended_by, waits_for
from thinwire.controller.kubernetes.resources import ATTEMPT_LABEL, Raw, condition_of, label_of
from thinwire.controller.kubernetes.times import seconds_of
from thinwire.controller.plan import Attempt, StopReason

STOP_ANNOTATION = "thinwire.dev/stopped-because"


def attempt_of(job: Raw, pods: Sequence[Raw]) -> Attempt:
    """The attempt that an Indexed Job stands for. `pods` are its own."""
    number = int(label_of(job, ATTEMPT_LABEL))
    stop = _stop_of(job)
    if (done := condition_of(job, "Complete")) is not None:
        return Attempt(number, 0, seconds_of(done.get("lastTransitionTime")), stop=stop)
    if (failed := condition_of(job, "Failed")) is not None:
        cause = ended_by(job, pods)
        return Attempt(number, cause.exit_code, seconds_of(failed.get("lastTransitionTime")), cause.message, stop)
    held = bool(job["spec"].get("suspend")) and stop is None
    return Attempt(number, message=_under_way(job, pods), stop=stop, held=held)


def _stop_of(job: Raw) -> StopReason | None:
    if "deletionTimestamp" not in job["metadata"]:
        return None
    reason = (job["metadata"].get("annotations") or {}).get(STOP_ANNOTATION, "")
    return StopReason(reason) if reason in tuple(StopReason) else StopReason.SUPERSEDED


def _under_way(job: Raw, pods: Sequence[Raw]) -> str:
    if condition_of(job, "FailureTarget") is not None:
        return f"attempt fails, its pods are ending: {ended_by(job, pods).message}"
    cause = waits_for(job, pods)
    return cause.message if cause is not None else ""
