"""What one step tells of a job: rates in force, computing time, codec speed, errors, and what every link carries."""

from __future__ import annotations

import math
from dataclasses import replace

from thinwire.controller.policy.estimator import introduced, observe
from thinwire.controller.policy.forecast import Operation
from thinwire.controller.policy.reports import Step, Window
from thinwire.controller.policy.state import Link, Tuner, rung_at

_REMEMBERED_STEPS = 5
_BARRED_PROMPTS = 2
_CODEC_GAIN = 0.3
_CODEC_FACTOR_LIMITS = (0.1, 20.0)


def heard(tuner: Tuner, step: Step) -> Tuner:
    """Take in which rates and which epoch are in force."""
    known = {link.link_class for link in tuner.links}
    links = tuple(replace(link, millibits=step.rate_of(link.link_class) or link.millibits) for link in tuner.links)
    new = tuple(Link(name, millibits) for name, millibits in step.rates if name not in known)
    return replace(
        tuner,
        links=links + new,
        epoch=max(tuner.epoch, step.epoch),
        last_job_step=step.job_step,
        steps_seen=tuner.steps_seen + 1,
        sent=None if tuner.sent is not None and step.epoch >= tuner.sent.epoch else tuner.sent,
    )


def measured(tuner: Tuner, step: Step) -> Tuner:
    """Take in what the step has measured."""
    tuner = _codec_measured(_ceiling_kept(tuner, step), step)
    exchange = sum(window.sum_seconds + window.encode_seconds + window.decode_seconds for window in step.windows)
    hidden = max(0.0, step.compute_seconds + exchange - step.step_seconds)
    exposed = 1.0 - min(hidden / exchange, 1.0) if exchange > 0 else 1.0
    return replace(
        tuner,
        links=tuple(_link_measured(link, step.windows) for link in tuner.links),
        compute_seconds=(*tuner.compute_seconds, step.compute_seconds)[-_REMEMBERED_STEPS:],
        exposed_share=tuner.exposed_share + _CODEC_GAIN * (exposed - tuner.exposed_share),
    )


def _link_measured(link: Link, windows: tuple[Window, ...]) -> Link:
    operations = {operation.name: operation for operation in link.operations}
    for window in windows:
        if window.link_class == link.link_class:
            before = operations.get(window.operation, Operation(window.operation))
            values = window.values or int(window.sum_bytes * 8000 / max(link.millibits, 1))
            operations[window.operation] = Operation(
                window.operation, observe(before.estimate, window), window.count, values
            )
    known = tuple(operations.values())
    estimates = introduced([operation.estimate for operation in known])
    return replace(
        link,
        operations=tuple(
            replace(operation, estimate=estimate) for operation, estimate in zip(known, estimates, strict=True)
        ),
    )


def _codec_measured(tuner: Tuner, step: Step) -> Tuner:
    announced = 0.0
    for window in step.windows:
        rung = rung_at(tuner, step.rate_of(window.link_class))
        announced += window.values * rung.codec_seconds_per_value if rung else 0.0
    measured = sum(window.encode_seconds + window.decode_seconds for window in step.windows)
    if step.key_frame or announced <= 0 or measured <= 0:
        return tuner
    low, high = _CODEC_FACTOR_LIMITS
    factor = max(low, min(measured / announced, high))
    return replace(tuner, codec_factor=tuner.codec_factor + _CODEC_GAIN * (factor - tuner.codec_factor))


def _ceiling_kept(tuner: Tuner, step: Step) -> Tuner:
    """Bar, for two prompts, the rungs that must be above the ceiling on relative error, once one was seen there.

    A bit per value halves the error, or 6 dB: that tells how far up the ladder the bar has to go.
    """
    limits = tuner.limits
    if step.key_frame or not step.rates or not limits.max_relative_error_milli:
        return tuner
    if step.max_relative_error * 1000 <= limits.max_relative_error_milli:
        return tuner
    lowest = min(millibits for _, millibits in step.rates)
    bits_short = math.log2(step.max_relative_error * 1000 / limits.max_relative_error_milli)
    barred = max(lowest, lowest + math.ceil(1000 * bits_short) - 1)
    still = tuner.barred_millibits if step.job_step <= tuner.barred_until_job_step else 0
    until = step.job_step + _BARRED_PROMPTS * limits.steps_per_prompt
    return replace(tuner, barred_millibits=max(barred, still), barred_until_job_step=until)
