"""What a running job looks like in words and figures, and how long it still takes. No terminal here."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from thinwire.controller.policy.explain import size, throughput
from thinwire.proto.thinwire.v1alpha1 import status_pb2 as pb

ENDED = (pb.JOB_STATE_SUCCEEDED, pb.JOB_STATE_FAILED)

_STATES = {
    pb.JOB_STATE_UNSPECIFIED: "unknown",
    pb.JOB_STATE_PENDING: "pending",
    pb.JOB_STATE_STARTING: "starting",
    pb.JOB_STATE_RUNNING: "running",
    pb.JOB_STATE_SUSPENDED: "suspended",
    pb.JOB_STATE_RESTARTING: "restarting",
    pb.JOB_STATE_SUCCEEDED: "succeeded",
    pb.JOB_STATE_FAILED: "failed",
}
_REMEMBERED = 120


def state_name(job: pb.JobStatus) -> str:
    """The job's state as one word."""
    return _STATES.get(job.state, "unknown")


def steps_done(job: pb.JobStatus) -> int:
    """Steps of the whole job that are behind it."""
    finished = job.prompts_done * job.steps
    return max(finished, job.job_step + 1) if job.step else finished


def steps_total(job: pb.JobStatus) -> int:
    """Steps of the whole job."""
    return job.prompts_total * job.steps


def rate(job: pb.JobStatus) -> str:
    """Bits per value on every link class."""
    many = len(job.links) > 1
    words = [f"{link.millibits / 1000:g} bits" + (f" {link.link_class}" if many else "") for link in job.links]
    return ", ".join(words) or "–"


def links(job: pb.JobStatus) -> str:
    """What every link class is found to carry."""
    kind = " (emulated)" if job.link_is_emulated else ""
    known = [
        f"{throughput(link.throughput_bytes_per_second)} {link.link_class}"
        for link in job.links
        if link.throughput_bytes_per_second
    ]
    return ", ".join(known) + kind if known else "–"


def hidden(job: pb.JobStatus) -> str:
    """How much of the last step's transfers passed behind computing; a dash where nothing did."""
    many = len(job.links) > 1
    shares = [
        f"{100 * link.hidden_share:.0f} %" + (f" {link.link_class}" if many else "")
        for link in job.links
        if link.hidden_share > 0
    ]
    return ", ".join(shares) or "–"


def error(job: pb.JobStatus) -> str:
    """Relative error of the last step."""
    return f"{100 * job.max_relative_error:.2g} %" if job.step else "–"


def saved(job: pb.JobStatus) -> str:
    """Bytes sent beside those an uncompressed exchange sends."""
    if not job.bytes_uncompressed:
        return "–"
    share = 100 * job.bytes_sent / job.bytes_uncompressed
    return f"{size(job.bytes_sent)} of {size(job.bytes_uncompressed)} ({share:.3g} %)"


def duration(seconds: float | None) -> str:
    """Seconds as a person says them."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


@dataclass(frozen=True, slots=True)
class _Mark:
    steps: int
    at_seconds: float


class TimeLeft:
    """Seconds until the last step, from the pace of the last steps that were seen."""

    def __init__(self) -> None:
        self._marks: deque[_Mark] = deque(maxlen=_REMEMBERED)

    def after(self, job: pb.JobStatus, now_seconds: float) -> float | None:
        """Take in a status and return the estimate, None while there is no pace yet."""
        done = steps_done(job)
        if job.step and (not self._marks or done > self._marks[-1].steps):
            self._marks.append(_Mark(done, now_seconds))
        if len(self._marks) < 2:
            return None
        first, last = self._marks[0], self._marks[-1]
        pace = (last.at_seconds - first.at_seconds) / (last.steps - first.steps)
        return max(0.0, (steps_total(job) - last.steps) * pace - (now_seconds - last.at_seconds))
