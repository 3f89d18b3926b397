"""A gang as the plan sees it, read from its Job and pods."""

from __future__ import annotations

from collections.abc import Sequence

from thinwire.controller.kubernetes.diagnosis import ended_by, waits_for
from thinwire.controller.kubernetes.resources import ATTEMPT_LABEL, Raw, condition_of, label_of, name_of
from thinwire.controller.kubernetes.times import seconds_of
from thinwire.controller.plan import Attempt, StopReason

STOP_ANNOTATION = "thinwire.dev/stopped-because"


def attempt_of(job: Raw, pods: Sequence[Raw]) -> Attempt:
    """The attempt that an Indexed Job stands for. `pods` are its own."""
    number = int(label_of(job, ATTEMPT_LABEL))
    stop = _stop_of(job)
    if (done := condition_of(job, "Complete")) is not None:
        return Attempt(number, 0, seconds_of(done.get("lastTransitionTime")), stop=stop)
    failed = condition_of(job, "Failed")
    if failed is not None and not _alive(pods):
        cause = ended_by(job, pods)
        return Attempt(number, cause.exit_code, seconds_of(failed.get("lastTransitionTime")), cause.message, stop)
    # Pods and Jobs come by watches of their own: a Job may be seen failed before the pod that says why.
    if failed is not None or condition_of(job, "FailureTarget") is not None:
        return Attempt(number, message=_ending(job, pods), stop=stop, failing=stop is None)
    held = bool(job["spec"].get("suspend")) and stop is None
    waiting = waits_for(job, pods)
    return Attempt(number, message=waiting.message if waiting is not None else "", stop=stop, held=held)


def _stop_of(job: Raw) -> StopReason | None:
    if "deletionTimestamp" not in job["metadata"]:
        return None
    reason = (job["metadata"].get("annotations") or {}).get(STOP_ANNOTATION, "")
    return StopReason(reason) if reason in tuple(StopReason) else StopReason.SUPERSEDED


def _ending(job: Raw, pods: Sequence[Raw]) -> str:
    """Why a gang has failed, and which pods keep the next attempt waiting: none begins while one may still write."""
    living = [f"{name_of(pod)} on {pod.get('spec', {}).get('nodeName') or 'no node'}" for pod in _alive(pods)]
    where = ", ".join(living[:3])
    waiting = f"; still to end: {where} (if that node is gone for good, delete it or the pod by force)" if where else ""
    return f"the attempt failed ({ended_by(job, pods).message}){waiting}"


def _alive(pods: Sequence[Raw]) -> list[Raw]:
    return [pod for pod in pods if pod.get("status", {}).get("phase") not in ("Failed", "Succeeded")]
