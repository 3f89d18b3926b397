"""The status of a DiffusionJob: what `kubectl get` and `kubectl describe` show of a snapshot. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thinwire.controller.job_record import Heard, JobKey, JobRecord
from thinwire.controller.kubernetes.conditions import Gang, conditions
from thinwire.controller.kubernetes.resources import Raw, name_of, namespace_of
from thinwire.controller.kubernetes.times import seconds_of, timestamp
from thinwire.controller.manifest.job import DiffusionJob
from thinwire.controller.plan import State
from thinwire.controller.policy.tuner import Link
from thinwire.proto.thinwire.v1alpha1 import status_pb2 as pb

_LONGEST_MESSAGE = 2000
_LONGEST_REASON = 1000
_LARGEST_ERROR = 1e6


def record_of(raw: Raw, job: DiffusionJob) -> JobRecord:
    """What a controller that has just begun knows of a job: what the one before it wrote down."""
    status: Raw = raw.get("status") or {}
    progress = status.get("progress") or {}
    state = State(status.get("state", State.PENDING))
    attempt = int(status.get("attempt", 0))
    return JobRecord(
        JobKey(namespace_of(raw), name_of(raw)),
        prompts_total=len(job.generation.prompts) or int(progress.get("promptsTotal", 0)),
        steps_per_prompt=job.generation.steps,
        state=state,
        message=status.get("message", ""),
        attempt=attempt,
        restarts=int(status.get("restarts", 0)),
        start_seconds=seconds_of(status.get("startTime")),
        completion_seconds=seconds_of(status.get("completionTime")),
        # An attempt that ran goes on running until it says otherwise.
        heard=Heard(
            attempt=attempt if state is State.RUNNING else 0,
            steps_reported=1 if state is State.RUNNING else 0,
            prompts_done=int(progress.get("promptsDone", 0)),
        ),
        plan=plan_of(status),
    )


def status_of(record: JobRecord, raw: Raw, gang: Gang, now_seconds: float) -> Raw:
    """The whole status of the job `raw` whose snapshot is `record`."""
    before: Raw = raw.get("status") or {}
    status: Raw = {
        "observedGeneration": raw["metadata"]["generation"],
        "state": str(record.state),
        "message": record.message[:_LONGEST_MESSAGE],
        "attempt": record.attempt,
        "restarts": record.restarts,
        "progress": _progress(record),
        "conditions": conditions(record, raw, gang, before.get("conditions") or [], now_seconds),
    }
    if record.start_seconds:
        status["startTime"] = timestamp(record.start_seconds)
    if record.plan is not None:
        status["plan"] = _plan(record.plan)
    if record.completion_seconds:
        status["completionTime"] = timestamp(record.completion_seconds)
    # What a controller before this one saw of the links stands until rank 0 says more.
    for field, shown in (("link", _link(record)), ("compression", _compression(record))):
        if shown or before.get(field):
            status[field] = shown or before[field]
    return status


def merge_patch(before: Mapping[str, Any], after: Mapping[str, Any]) -> Raw:
    """The JSON merge patch (RFC 7396) that makes `after` of `before`; empty if they are equal."""
    patch: Raw = {name: None for name in before if name not in after}
    for name, value in after.items():
        known = before.get(name)
        if isinstance(value, Mapping) and isinstance(known, Mapping):
            if inner := merge_patch(known, value):
                patch[name] = inner
        elif value != known or name not in before:
            patch[name] = value
    return patch


def is_urgent(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether a status says more than new figures of a job that goes on as it did."""
    return _outline(before) != _outline(after)


def _outline(status: Mapping[str, Any]) -> tuple[object, ...]:
    holds = {one["type"]: (one["status"], one["reason"]) for one in status.get("conditions") or ()}
    progress = status.get("progress") or {}
    fields = ("observedGeneration", "state", "attempt", "restarts", "startTime", "completionTime")
    return (*(status.get(field) for field in fields), progress.get("promptsDone"), tuple(sorted(holds.items())))


def plan_of(status: Mapping[str, Any]) -> pb.JobPlan | None:
    """The plan that a status tells, None where it tells none."""
    plan = status.get("plan")
    if plan is None:
        return None
    return pb.JobPlan(
        degrees=plan.get("degrees", ""),
        ranks=plan.get("ranks", 0),
        ranks_per_node=plan.get("ranksPerPod", 0),
        links=[
            pb.PlannedLink(
                link_class=link.get("linkClass", ""),
                ranks=link.get("ranks", 0),
                collectives_per_step=link.get("collectivesPerStep", 0),
                rates=[
                    pb.PlannedRate(
                        rung=rate.get("rung", ""),
                        millibits=rate.get("millibits", 0),
                        bytes_per_step=rate.get("bytesPerStep", 0),
                    )
                    for rate in link.get("rates") or ()
                ],
            )
            for link in plan.get("links") or ()
        ],
        base_memory_bytes=plan.get("baseMemoryBytes", 0),
        model_unseen=plan.get("modelUnseen", False),
    )


def _plan(plan: pb.JobPlan) -> Raw:
    shown: Raw = {"degrees": plan.degrees, "ranks": plan.ranks, "ranksPerPod": plan.ranks_per_node}
    if plan.model_unseen:
        return {**shown, "modelUnseen": True}
    links = [
        {
            "linkClass": link.link_class,
            "ranks": link.ranks,
            "collectivesPerStep": link.collectives_per_step,
            "rates": [
                {"rung": rate.rung, "millibits": rate.millibits, "bytesPerStep": rate.bytes_per_step}
                for rate in link.rates
            ],
        }
        for link in plan.links
    ]
    return {**shown, "modelUnseen": False, "baseMemoryBytes": plan.base_memory_bytes, "links": links}


def _progress(record: JobRecord) -> Raw:
    heard = record.heard
    progress: Raw = {
        "summary": f"{heard.prompts_done}/{record.prompts_total}" if record.prompts_total else "",
        "promptsDone": heard.prompts_done,
        "promptsTotal": record.prompts_total,
        "steps": record.steps_per_prompt,
    }
    if heard.step is not None:
        progress["step"] = heard.step.step + 1
        if heard.step.prompt_name:
            progress["prompt"] = heard.step.prompt_name[:63]
    return progress


def _link(record: JobRecord) -> Raw:
    link = slowest_link(record)
    if link is None or not link.bytes_per_second:
        return {}
    return {
        "linkClass": link.link_class[:63],
        "throughputMegabitsPerSecond": round(link.bytes_per_second * 8 / 1e6),
        "roundTripMicroseconds": round(max(link.latency_seconds, 0.0) * 1e6),
        "emulated": record.link_is_emulated,
    }


def _compression(record: JobRecord) -> Raw:
    link, heard = slowest_link(record), record.heard
    if link is None or heard.tuner is None:
        return {}
    shown: Raw = {
        "millibits": link.millibits,
        "epoch": heard.tuner.epoch,
        "reason": heard.last_reason[:_LONGEST_REASON],
    }
    if heard.step is not None:
        shown["relativeErrorMilli"] = round(min(max(heard.step.max_relative_error, 0.0), _LARGEST_ERROR) * 1000)
        sent = record.bytes_before[0] + heard.step.bytes_sent
        uncompressed = record.bytes_before[1] + heard.step.bytes_uncompressed
        if uncompressed:
            shown["savedPercent"] = min(100, max(0, round(100 - 100 * sent / uncompressed)))
    return shown


def slowest_link(record: JobRecord) -> Link | None:
    """The link class that carries least; while none is measured, the first."""
    links = record.heard.tuner.links if record.heard.tuner is not None else ()
    measured = [link for link in links if link.bytes_per_second]
    return min(measured, key=lambda link: link.bytes_per_second) if measured else next(iter(links), None)
