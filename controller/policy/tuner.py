"""One job's estimator and law together: reports go in, verdicts come out, nothing else changes.

The rate in force is what the last report says, never what was sent: a directive may be late or lost. While one is under
way the law waits; after `RESEND_STEPS` steps without its epoch the same rates go out again.
"""

from __future__ import annotations

from dataclasses import replace

from thinwire.controller.policy.decision import FROZEN_LAST_STEPS, decided
from thinwire.controller.policy.hearing import heard, measured
from thinwire.controller.policy.law import Hysteresis
from thinwire.controller.policy.reports import Limits, Rung, Step, refusal_of_step
from thinwire.controller.policy.state import Directive, Link, Tuner, Verdict

__all__ = [
    "FROZEN_LAST_STEPS",
    "RESEND_STEPS",
    "Directive",
    "Link",
    "Tuner",
    "Verdict",
    "after_step",
    "begin",
    "limited",
]

RESEND_STEPS = 5
LEAP_STEPS = 1000
_MOST_LINK_CLASSES = 16
_MOST_OPERATIONS = 16


def begin(ladder: tuple[Rung, ...], limits: Limits, rates: tuple[tuple[str, int], ...], epoch: int) -> Tuner:
    """A tuner that knows nothing of the links yet. `epoch` is the one in force; 0: no rate was decided so far."""
    memory = Hysteresis(decided=epoch > 0)
    links = tuple(Link(link_class, millibits, memory=memory) for link_class, millibits in rates)
    return Tuner(ladder, limits, links, epoch)


def limited(tuner: Tuner, limits: Limits) -> Tuner:
    """The same tuner with other limits. A rung that they do not allow is left at the next step that may move.

    A fixed rate is the owner's to move: all link classes are told the new one, again until it is in force.
    """
    moved = replace(tuner, limits=limits)
    if limits.adaptive or limits.max_millibits == tuner.limits.max_millibits:
        return moved
    reason = f"the manifest fixes the rate at {limits.max_millibits / 1000:g} bits a value now"
    rates = tuple((link.link_class, limits.max_millibits) for link in tuner.links)
    epoch = max(tuner.epoch, tuner.sent.epoch if tuner.sent is not None else 0) + 1
    return replace(moved, sent=Directive(epoch, rates, reason), sent_at_job_step=tuner.last_job_step - RESEND_STEPS)


def after_step(tuner: Tuner, step: Step) -> tuple[Tuner, Verdict]:
    """Take in one step. A step that cannot be believed moves nothing and is named in the verdict.

    A leap of more than `LEAP_STEPS` is believed when the next report goes on from there: one mangled number must not
    make all that follow look old.
    """
    refused = refusal_of_step(step, tuner.last_job_step) or _refusal_of_names(tuner, step)
    if refused is not None:
        return tuner, Verdict(None, "", refused)
    if _leaps(tuner.last_job_step, step) and (
        tuner.leapt_to_job_step is None
        or step.job_step <= tuner.leapt_to_job_step
        or _leaps(tuner.leapt_to_job_step, step)
    ):
        return replace(tuner, leapt_to_job_step=step.job_step), Verdict(None, "", "step leaps ahead")
    tuner = replace(tuner, leapt_to_job_step=None)
    first_of_attempt = tuner.steps_seen == 0
    tuner = heard(tuner, step)
    if first_of_attempt:
        return tuner, Verdict(None, "")
    tuner = measured(tuner, step)
    if tuner.sent is not None:
        return _awaited(tuner, tuner.sent, step)
    if not tuner.limits.adaptive:
        return tuner, Verdict(None, "the rate is fixed by the manifest")
    return decided(tuner, step)


def _awaited(tuner: Tuner, sent: Directive, step: Step) -> tuple[Tuner, Verdict]:
    """While a directive is under way nothing else is decided; after some steps without its epoch it goes out again."""
    if step.job_step - tuner.sent_at_job_step < RESEND_STEPS:
        return tuner, Verdict(None, sent.reason)
    return replace(tuner, sent_at_job_step=step.job_step), Verdict(sent, sent.reason)


def _leaps(from_job_step: int, step: Step) -> bool:
    return step.job_step > from_job_step + LEAP_STEPS


def _refusal_of_names(tuner: Tuner, step: Step) -> str | None:
    """Names are kept as long as the attempt lasts, so that their number is bounded."""
    operations = {link.link_class: {operation.name for operation in link.operations} for link in tuner.links}
    if len(operations.keys() | {name for name, _ in step.rates}) > _MOST_LINK_CLASSES:
        return "too many link classes"
    for window in step.windows:
        known = operations.setdefault(window.link_class, set())
        known.add(window.operation)
        if len(known) > _MOST_OPERATIONS:
            return "too many operations"
    return None
