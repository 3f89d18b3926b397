"""What of a report can be believed: limits that no job reaches, and the place of a Hello among those before it.

A number here is a limit on what one job can make a controller hold or compute, whoever writes its reports.
"""

from __future__ import annotations

from thinwire.controller.job_record import RETUNES, Heard, JobRecord
from thinwire.controller.policy.reports import Rung, refusal_of_ladder
from thinwire.proto.thinwire.v1alpha1.telemetry_pb2 import Hello, LadderRung, ReportRequest, StepReport

LONGEST_TEXT = 2000
_LONGEST_NAME = 256
"""Names are kept in every sample of a job's history, so that what one report may hold counts thousandfold."""
_MOST_LINK_CLASSES = 16
_MOST_WINDOWS = 64
_MOST_RUNGS = 256
_MOST_STEPS = 1_000_000_000
_MOST_MILLIBITS = 1_000_000
_HIGHEST_EPOCH = 2**40
_MOST_RETUNES_TOLD = 2 * RETUNES
LONGEST_SEQUENCE_LEAP = 2**20
_HIGHEST_FIRST_SEQUENCE = 2**40
_EPOCHS_UNHEARD_OF = 2
"""Directives that a controller before this one may have sent at its end: applied, though nobody here knows of them."""


class StreamRefusedError(Exception):
    """A stream that cannot be listened to; the message says what was expected, what came and what to do.

    `reason` is the fixed word that it is counted under.
    """

    def __init__(self, message: str, reason: str = "stream refused") -> None:
        super().__init__(message)
        self.reason = reason


def check_place(record: JobRecord, request: ReportRequest, *, again: bool) -> None:
    """Refuse a Hello that is a copy of an older one, or claims what no rank can know: it must not silence the ranks."""
    heard, sequence = record.heard, request.sequence
    if again and sequence <= heard.sequence:
        raise StreamRefusedError(
            f"{record.key}: expected a Hello with a sequence above {heard.sequence}, got {sequence}; a stream that was "
            "said before is not taken up again",
            "sequence seen before",
        )
    if sequence > (heard.sequence + LONGEST_SEQUENCE_LEAP if again else _HIGHEST_FIRST_SEQUENCE):
        raise StreamRefusedError(
            f"{record.key}: expected a Hello with a sequence near {heard.sequence}, got {sequence}",
            "sequence leaps ahead",
        )
    if again and request.hello.epoch > newest_epoch(heard):
        raise StreamRefusedError(
            f"{record.key}: expected a Hello of epoch {newest_epoch(heard)} at most, got {request.hello.epoch}",
            "unknown epoch",
        )


def newest_epoch(heard: Heard) -> int:
    """The highest epoch that a rank can have heard of."""
    if heard.tuner is None:
        return _HIGHEST_EPOCH
    return max(heard.tuner.epoch, heard.tuner.sent.epoch if heard.tuner.sent else 0) + _EPOCHS_UNHEARD_OF


def refusal_of_hello(hello: Hello) -> str | None:
    """Why a Hello cannot be used, or None."""
    ladder = tuple(as_rung(rung) for rung in hello.ladder[: _MOST_RUNGS + 1])
    policy_sent = hello.policy
    if len(ladder) > _MOST_RUNGS or max(len(hello.rates), len(hello.traffic)) > _MOST_LINK_CLASSES:
        return "more rungs or link classes than any job has"
    numbers = (hello.world_size, hello.prompts_total, hello.prompts_done, hello.steps_per_prompt, hello.bytes_sent)
    if min(*numbers, policy_sent.min_millibits, policy_sent.max_millibits, policy_sent.warmup_steps) < 0:
        return "a negative count"
    if max(hello.prompts_total, hello.steps_per_prompt) > _MOST_STEPS:
        return "more prompts or steps than any job has"
    if any(not 0 < rate.millibits <= _MOST_MILLIBITS for rate in hello.rates):
        return "a rate that cannot be"
    if len({rate.link_class for rate in hello.rates}) < len(hello.rates):
        return "a link class with two rates"
    names = (*(rate.link_class for rate in hello.rates), *(rung.name for rung in hello.ladder), hello.version)
    if max(len(name) for name in names) > _LONGEST_NAME:
        return "a name that is too long"
    if len(hello.retunes) > _MOST_RETUNES_TOLD:
        return "more retunes than a rank tells of"
    if (
        max((len(text) for one in hello.retunes for text in (one.prompt_name, one.link_class)), default=0)
        > _LONGEST_NAME
    ):
        return "a retune with a name that is too long"
    if max((len(one.reason) for one in hello.retunes), default=0) > LONGEST_TEXT:
        return "a retune with a reason that is too long"
    if hello.epoch > _HIGHEST_EPOCH:
        return "an epoch that no run reaches"
    return refusal_of_ladder(ladder) if policy_sent.adaptive else None


def refusal_of_report(report: StepReport) -> str | None:
    """Why a step cannot be believed, whatever came before it, or None."""
    if len(report.rates) > _MOST_LINK_CLASSES or len(report.windows) > _MOST_WINDOWS:
        return "too many link classes"
    texts = (report.prompt_name, *(text for window in report.windows for text in (window.link_class, window.operation)))
    names = (*texts, *(rate.link_class for rate in report.rates))
    if max(len(name) for name in names) > _LONGEST_NAME:
        return "text too long"
    if not all(0 <= window.hidden_seconds <= window.sum_seconds for window in report.windows):
        return "window hides more than it took"
    if min(report.bytes_sent, report.bytes_uncompressed, report.base_memory_bytes) < 0:
        return "step negative"
    if max(report.job_step, report.step) > _MOST_STEPS or report.epoch > _HIGHEST_EPOCH:
        return "step absurd"
    if any(not 0 < rate.millibits <= _MOST_MILLIBITS for rate in report.rates):
        return "rate absurd"
    return None


def as_rung(rung: LadderRung) -> Rung:
    """A rung as the law knows it."""
    return Rung(
        rung.name, rung.millibits, rung.encode_seconds_per_value, rung.decode_seconds_per_value, rung.distortion
    )
