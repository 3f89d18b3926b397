"""What a gang waits for, and what ended it: pure functions over its Job and pods, with a remedy in every sentence."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from thinwire.controller.kubernetes.pod import CONTAINER
from thinwire.controller.kubernetes.resources import QUEUE_LABEL, Raw, condition_of, label_of, name_of
from thinwire.controller.plan import BAD_INPUT

SENTENCE = "thinwire: "
"""Begins what a rank says when the job cannot be done, restarted or not."""

_LONGEST_CAUSE = 600
_ROOT_CAUSE = re.compile(
    r"rank\s*:\s*(?P<rank>\d+)\s*\(local_rank:\s*\d+\).*?exitcode\s*:\s*(?P<code>-?\d+)", re.DOTALL
)
_REMEDIES = {
    "ErrImagePull": "check the image's name and imagePullSecrets in spec.podTemplate; the pull is tried again",
    "ImagePullBackOff": "check the image's name and imagePullSecrets in spec.podTemplate; the pull is tried again",
    "InvalidImageName": "mend the image in spec.podTemplate, in a new job",
    "ErrImageNeverPull": "load the image onto the node, or let imagePullPolicy pull it",
    "CreateContainerConfigError": "create what it names; the pod goes on by itself",
    "CreateContainerError": "see `kubectl describe pod`",
    "RunContainerError": "see `kubectl describe pod`",
}
_STARTING = ("ContainerCreating", "PodInitializing", "")


@dataclass(frozen=True, slots=True)
class Cause:
    """One word for machines and a sentence for people. `exit_code` is the rank's where one is known."""

    reason: str
    message: str
    exit_code: int = 1


def waits_for(job: Raw, pods: Iterable[Raw]) -> Cause | None:
    """Why a gang does not run yet, if there is more to say than that it starts."""
    if job["spec"].get("suspend"):
        queue = label_of(job, QUEUE_LABEL)
        said = f"queue {queue} has not admitted Job {name_of(job)}; `kubectl describe workload` says what is short"
        return Cause("AwaitingAdmission", said)
    found = [cause for pod in sorted(pods, key=name_of) if (cause := _pod_waits_for(pod)) is not None]
    return found[0] if found else None


def ended_by(job: Raw, pods: Sequence[Raw]) -> Cause:
    """Why a gang failed: the sentence of a rank if there is one, else the pod that ended first, else the Job's word."""
    endings = sorted(_endings(pods), key=lambda ending: (not ending[1].message.startswith(SENTENCE), ending[0]))
    if endings:
        _, cause = endings[0]
        return Cause(cause.reason, cause.message.removeprefix(SENTENCE)[:_LONGEST_CAUSE], cause.exit_code)
    failed = condition_of(job, "Failed") or condition_of(job, "FailureTarget") or {}
    said = failed.get("message") or "its Job failed without a word"
    return Cause(failed.get("reason") or "JobFailed", f"{said}; the pods are gone, their logs with them")


def _pod_waits_for(pod: Raw) -> Cause | None:
    status, name = pod.get("status", {}), name_of(pod)
    if status.get("phase", "Pending") != "Pending":
        return None
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            said = condition.get("message") or "no node takes it"
            reason = condition.get("reason") or "Unschedulable"
            return Cause(
                reason, f"pod {name} has no node: {said.rstrip('. ')}; add such a node, free one, or ask for less"
            )
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = container.get("state", {}).get("waiting") or {}
        reason = waiting.get("reason", "")
        if reason not in _STARTING:
            said = f": {waiting['message'].rstrip('. ')}" if waiting.get("message") else ""
            remedy = _REMEDIES.get(reason, "see `kubectl describe pod`")
            return Cause(reason, f"pod {name} cannot start, {reason}{said}; {remedy}")
    return None


def _endings(pods: Sequence[Raw]) -> Iterator[tuple[str, Cause]]:
    """When and how every failed pod ended."""
    for pod in pods:
        status, name = pod.get("status", {}), name_of(pod)
        disrupted = condition_of(pod, "DisruptionTarget")
        if disrupted is not None:
            reason = disrupted.get("reason") or "Disrupted"
            said = disrupted.get("message") or reason
            yield disrupted.get("lastTransitionTime") or "", Cause(reason, f"pod {name} was taken away: {said}")
        elif status.get("phase") == "Failed":
            yield _ending_of(pod)


def _ending_of(pod: Raw) -> tuple[str, Cause]:
    status, name = pod["status"], name_of(pod)
    for container in status.get("containerStatuses") or ():
        ended = container.get("state", {}).get("terminated") or {}
        if container.get("name") == CONTAINER and ended.get("exitCode"):
            return ended.get("finishedAt") or "", _container_ended(name, ended)
    reason = status.get("reason") or "PodFailed"
    said = status.get("message") or "no container of it says why"
    return _last_change(status), Cause(reason, f"pod {name} failed, {reason}: {said}")


def _container_ended(name: str, ended: Raw) -> Cause:
    said, code, reason = ended.get("message") or "", int(ended["exitCode"]), ended.get("reason") or "Error"
    sentence = next((line for line in said.splitlines() if line.startswith(SENTENCE)), "")
    if sentence:
        return Cause("BadInput", sentence, BAD_INPUT)
    if reason == "OOMKilled":
        return Cause(
            reason,
            f"pod {name} used more memory than its limit; raise resources.limits.memory of container "
            f"{CONTAINER} in spec.podTemplate, or spread the job over more ranks",
        )
    root = _ROOT_CAUSE.search(said)
    if root is not None:
        return Cause("RankFailed", f"rank {root['rank']} in pod {name} {_how(int(root['code']))}{_last_words(said)}")
    return Cause(reason, f"pod {name} {_how(code)}{_last_words(said)}")


def _how(code: int) -> str:
    number = -code if code < 0 else code - 128 if code > 128 else 0
    try:
        return f"was ended by {signal.Signals(number).name}"
    except ValueError:
        return f"ended with exit code {code}"


def _last_words(said: str) -> str:
    """The last line that names an error, for the log's end is torchrun's own summary."""
    lines = [line.strip() for line in said.splitlines() if re.match(r"\s*[\w.]*(Error|Exception)\b.*: ", line)]
    spoken = [line for line in lines if "ChildFailedError" not in line]
    return f": {spoken[-1]}" if spoken else "; `kubectl logs` has what it said"


def _last_change(status: Raw) -> str:
    return max((one.get("lastTransitionTime") or "" for one in status.get("conditions") or ()), default="")
