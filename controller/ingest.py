"""One report of a job's rank 0, taken in: a pure function from a snapshot to the next one and what to answer.

A report that cannot be believed changes nothing but a counter. What would make all that follows it meaningless (no
Hello first, a stranger's attempt, a ladder that cannot be) is refused as a whole by `StreamRefusedError`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from thinwire.controller.credible import (
    LONGEST_SEQUENCE_LEAP,
    LONGEST_TEXT,
    StreamRefusedError,
    as_rung,
    check_place,
    newest_epoch,
    refusal_of_hello,
    refusal_of_report,
)
from thinwire.controller.job_record import RETUNES, Allowed, Heard, JobRecord
from thinwire.controller.policy import tuner as policy
from thinwire.controller.policy.reports import Limits, Step, Window
from thinwire.controller.policy.tuner import Tuner
from thinwire.proto.thinwire.v1alpha1 import status_pb2
from thinwire.proto.thinwire.v1alpha1.telemetry_pb2 import (
    Directive,
    Hello,
    LinkClassRate,
    PromptFinished,
    ReportRequest,
    ReportResponse,
    Retune,
    StepReport,
)


@dataclass(frozen=True, slots=True)
class Taken:
    """The next snapshot, what to answer, and whether the stream has come to its end."""

    record: JobRecord
    answers: tuple[ReportResponse, ...] = ()
    ended: bool = False


def take(record: JobRecord, request: ReportRequest, now_seconds: float) -> Taken:
    """Take in one report that followed a Hello of this job; raises StreamRefusedError."""
    heard = record.heard
    if request.sequence <= heard.sequence:
        return Taken(record.refusing("sequence seen before"))
    if request.sequence > heard.sequence + LONGEST_SEQUENCE_LEAP:
        return Taken(record.refusing("sequence leaps ahead"))
    if request.HasField("hello") and (request.hello.namespace, request.hello.job_name) != (
        record.key.namespace,
        record.key.name,
    ):
        return Taken(record.refusing("hello of another job"))
    if request.HasField("hello"):
        return Taken(greet(record, request, now_seconds))
    record = replace(record, heard=replace(heard, sequence=request.sequence, at_seconds=now_seconds))
    match request.WhichOneof("body"):
        case "step":
            return _step(record, request.step)
        case "prompt_finished":
            return Taken(_prompt_finished(record, request.prompt_finished))
        case "run_finished":
            if len(request.run_finished.message) > LONGEST_TEXT:
                return Taken(record.refusing("text too long"), ended=True)
            return Taken(replace(record, heard=replace(record.heard, finished=request.run_finished)), ended=True)
        case _:
            return Taken(record.refusing("empty report"))


def greet(record: JobRecord, request: ReportRequest, now_seconds: float) -> JobRecord:
    """Begin, or take up again, the stream of an attempt; raises StreamRefusedError."""
    hello = request.hello
    if hello.attempt < max(record.attempt, record.heard.attempt, 1):
        raise StreamRefusedError(
            f"{record.key}: expected attempt {max(record.attempt, record.heard.attempt, 1)}, got a Hello of attempt "
            f"{hello.attempt}; only the newest attempt may report"
        )
    again = hello.attempt == record.heard.attempt and record.heard.hello is not None
    check_place(record, request, again=again)
    why = refusal_of_hello(hello)
    if why is not None:
        raise StreamRefusedError(f"{record.key}: Hello refused: {why}")
    done = (record.heard.step.bytes_sent, record.heard.step.bytes_uncompressed) if record.heard.step else (0, 0)
    before = record.bytes_before
    if not again:
        before = (before[0] + done[0], before[1] + done[1])
    tuner = _tuner(hello)
    if again and record.heard.tuner is not None and record.heard.tuner.ladder == tuner.ladder:
        tuner = replace(record.heard.tuner, epoch=max(record.heard.tuner.epoch, hello.epoch), sent=None)
    tuner = _allowed(tuner, record.allowed)
    heard = replace(
        record.heard if again else _fresh(record.heard, hello.attempt),
        attempt=hello.attempt,
        sequence=request.sequence,
        hello=hello,
        tuner=tuner,
        prompts_done=hello.prompts_done,
        at_seconds=now_seconds,
    )
    return replace(
        record,
        heard=heard,
        attempt=hello.attempt,
        bytes_before=before,
        prompts_total=hello.prompts_total or record.prompts_total,
        steps_per_prompt=hello.steps_per_prompt or record.steps_per_prompt,
        link_is_emulated=hello.link_is_emulated,
        retunes=_merged(record.retunes, hello.retunes),
    )


def _fresh(heard: Heard, attempt: int) -> Heard:
    """What is still true when a stream begins. A controller that was away may know already that this attempt steps."""
    steps = heard.steps_reported if heard.attempt == attempt else 0
    return Heard(last_reason=heard.last_reason, steps_reported=steps)


def allow(record: JobRecord, allowed: Allowed) -> JobRecord:
    """Have the law keep to what the manifest says now, from the next step on."""
    if record.allowed == allowed:
        return record
    tuner = record.heard.tuner
    if tuner is not None:
        tuner = _allowed(tuner, allowed)
    return replace(record, allowed=allowed, heard=replace(record.heard, tuner=tuner))


def _allowed(tuner: Tuner, allowed: Allowed | None) -> Tuner:
    if allowed is None:
        return tuner
    limits = replace(
        tuner.limits,
        min_millibits=allowed.min_millibits,
        max_millibits=allowed.max_millibits,
        target_stall_percent=allowed.target_stall_percent,
    )
    return policy.limited(tuner, limits)


def _step(record: JobRecord, report: StepReport) -> Taken:
    heard = record.heard
    if heard.tuner is None:
        return Taken(record.refusing("step before Hello"))
    why = refusal_of_report(report)
    if why is None and report.epoch > newest_epoch(heard):
        why = "unknown epoch"
    if why is not None:
        return Taken(record.refusing(why))
    tuner, verdict = policy.after_step(heard.tuner, _as_step(report))
    if verdict.refusal is not None:
        return Taken(record.refusing(verdict.refusal))
    record = replace(
        record,
        heard=replace(
            heard,
            step=report,
            tuner=tuner,
            steps_reported=heard.steps_reported + 1,
            last_reason=verdict.reason or heard.last_reason,
        ),
        samples=(*record.samples, _sample(record, report, tuner))[-record.samples_kept :],
        retunes=_merged(record.retunes, _retunes_between(heard, report, tuner)),
    )
    answers = (ReportResponse(directive=_directive(verdict.directive)),) if verdict.directive else ()
    return Taken(record, answers)


def _prompt_finished(record: JobRecord, finished: PromptFinished) -> JobRecord:
    if max(len(finished.prompt_name), len(finished.file)) > LONGEST_TEXT:
        return record.refusing("text too long")
    if not record.heard.prompts_done <= finished.prompts_done <= max(record.prompts_total, record.heard.prompts_done):
        return record.refusing("prompts out of order")
    return replace(record, heard=replace(record.heard, prompts_done=finished.prompts_done))


def _tuner(hello: Hello) -> Tuner:
    sent = hello.policy
    limits = Limits(
        adaptive=sent.adaptive,
        min_millibits=sent.min_millibits,
        max_millibits=sent.max_millibits,
        target_stall_percent=sent.target_stall_percent,
        max_relative_error_milli=sent.max_relative_error_milli,
        warmup_steps=sent.warmup_steps,
        steps_per_prompt=hello.steps_per_prompt,
    )
    rates = tuple((rate.link_class, rate.millibits) for rate in hello.rates)
    return policy.begin(tuple(as_rung(rung) for rung in hello.ladder), limits, rates, hello.epoch)


def _as_step(report: StepReport) -> Step:
    windows = tuple(
        Window(
            window.link_class,
            window.operation,
            window.count,
            window.sum_bytes,
            window.sum_seconds,
            window.sum_bytes_squared,
            window.sum_bytes_seconds,
            window.encode_seconds,
            window.decode_seconds,
            window.values,
        )
        for window in report.windows
        if window.count
    )
    rates = tuple((rate.link_class, rate.millibits) for rate in report.rates)
    return Step(
        report.job_step,
        report.step,
        report.step_seconds,
        report.compute_seconds,
        report.max_relative_error,
        report.epoch,
        rates,
        report.key_frame,
        windows,
    )


def links(tuner: Tuner | None, report: StepReport | None) -> list[status_pb2.LinkStatus]:
    """What is known of every link class, for people; report: the last step."""
    return [
        status_pb2.LinkStatus(
            link_class=link.link_class,
            millibits=link.millibits,
            throughput_bytes_per_second=link.bytes_per_second,
            latency_seconds=link.latency_seconds,
            hidden_share=_hidden_share(report, link.link_class),
        )
        for link in (tuner.links if tuner else ())
    ]


def _hidden_share(report: StepReport | None, link_class: str) -> float:
    windows = [window for window in (report.windows if report else ()) if window.link_class == link_class]
    seconds = sum(window.sum_seconds for window in windows)
    return sum(window.hidden_seconds for window in windows) / seconds if seconds > 0 else 0.0


def _sample(record: JobRecord, report: StepReport, tuner: Tuner) -> status_pb2.Sample:
    return status_pb2.Sample(
        job_step=report.job_step,
        prompt_name=report.prompt_name,
        step=report.step + 1,
        step_seconds=report.step_seconds,
        compute_seconds=report.compute_seconds,
        max_relative_error=report.max_relative_error,
        links=links(tuner, report),
        bytes_sent=record.bytes_before[0] + report.bytes_sent,
        bytes_uncompressed=record.bytes_before[1] + report.bytes_uncompressed,
    )


def _directive(directive: policy.Directive) -> Directive:
    rates = [LinkClassRate(link_class=name, millibits=millibits) for name, millibits in directive.rates]
    return Directive(epoch=directive.epoch, rates=rates, reason=directive.reason)


def _retunes_between(heard: Heard, report: StepReport, tuner: Tuner) -> list[Retune]:
    """The retunes that this step shows: its epoch is new, and a rate of it differs from the one before."""
    assert heard.tuner is not None
    if report.epoch <= heard.tuner.epoch:
        return []
    before = {link.link_class: link.millibits for link in heard.tuner.links}
    sent = heard.tuner.sent
    reason = sent.reason if sent is not None and sent.epoch == report.epoch else ""
    return [
        Retune(
            job_step=report.job_step,
            prompt_name=report.prompt_name,
            step=report.step,
            epoch=report.epoch,
            link_class=link.link_class,
            from_millibits=before[link.link_class],
            to_millibits=link.millibits,
            reason=reason,
        )
        for link in tuner.links
        if link.link_class in before and before[link.link_class] != link.millibits
    ]


def _merged(known: tuple[Retune, ...], told: Iterable[Retune]) -> tuple[Retune, ...]:
    """All retunes once; what was known first stays. Epochs begin anew with every attempt, job steps do not."""
    places = {(one.epoch, one.link_class, one.job_step + near) for one in known for near in (-1, 0, 1)}
    new = [one for one in told if (one.epoch, one.link_class, one.job_step) not in places]
    return (*known, *new)[-RETUNES:]
