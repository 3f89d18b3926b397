"""From what is known of a job's links to its next rates: every link class within what the others leave it."""

from __future__ import annotations

from dataclasses import replace
from statistics import median

from thinwire.controller.policy import forecast, law
from thinwire.controller.policy.explain import Reason
from thinwire.controller.policy.law import Choice, Move, Views
from thinwire.controller.policy.reports import Limits, Rung, Step
from thinwire.controller.policy.state import Directive, Link, Tuner, Verdict, rung_at

FROZEN_LAST_STEPS = 2
_FEWEST_STEPS_TO_FREEZE_LAST = 8
_FIRST_WINDOWS = 3
_DIRECTIVE_TAKES_STEPS = 2


def decided(tuner: Tuner, step: Step) -> tuple[Tuner, Verdict]:
    """Return a directive if anything is to change."""
    if tuner.steps_seen <= _FIRST_WINDOWS:
        return tuner, Verdict(None, "")
    barred = tuner.barred_millibits if step.job_step <= tuner.barred_until_job_step else 0
    rungs = forecast.allowed(tuner.ladder, tuner.limits, barred)
    compute = median(tuner.compute_seconds)
    links, choices, reasons = [], [], []
    for link in tuner.links:
        considered, choice, reason = _considered(tuner, link, rungs, compute, frozen=_frozen(tuner.limits, step))
        links.append(considered)
        choices.append(choice)
        reasons.append(reason)
    tuner = replace(tuner, links=tuple(links))
    if all(choice.move is Move.HOLD for choice in choices):
        return tuner, Verdict(None, "; ".join(filter(None, reasons)))
    moved = [reason for choice, reason in zip(choices, reasons, strict=True) if choice.move is not Move.HOLD]
    rates = tuple(
        (link.link_class, link.millibits if choice.move is Move.HOLD else choice.rung.millibits)
        for link, choice in zip(links, choices, strict=True)
    )
    directive = Directive(tuner.epoch + 1, rates, "; ".join(moved))
    return replace(tuner, sent=directive, sent_at_job_step=step.job_step), Verdict(directive, directive.reason)


def _considered(
    tuner: Tuner, link: Link, rungs: tuple[Rung, ...], compute_seconds: float, *, frozen: bool
) -> tuple[Link, Choice, str]:
    current = _in_force(tuner, link, rungs)
    if not any(operation.estimate.known for operation in link.operations):
        return link, Choice(current, Move.HOLD), ""

    def priced(view: forecast.View, among: tuple[Rung, ...] = rungs) -> tuple[forecast.Outlook, ...]:
        return forecast.outlooks(
            link.operations, among, view, codec_factor=tuner.codec_factor, exposed_share=tuner.exposed_share
        )

    budget = compute_seconds * tuner.limits.target_stall_percent / 100 - _stall_elsewhere(
        tuner, link, rungs, compute_seconds
    )
    views = Views(priced(forecast.plainly), priced(forecast.carefully), priced(forecast.lately))
    memory, choice = law.consider(
        link.memory, views, current, budget_seconds=budget, compute_seconds=compute_seconds, frozen=frozen
    )
    if choice.move is Move.UP:
        # What a straggler gives up is no reason to send more elsewhere: the step is too long already.
        (risen,) = priced(forecast.carefully, (choice.rung,))
        if budget - _straggled_shares(tuner, link, rungs, compute_seconds) < risen.stall_seconds <= budget:
            memory, choice = replace(link.memory, good_windows=0, bad_windows=0), Choice(current, Move.HOLD)
    before, after = priced(forecast.plainly, (current, choice.rung))
    reason = Reason(
        link.link_class, link.bytes_per_second, link.latency_seconds, before, after, budget, compute_seconds
    )
    return replace(link, memory=memory), choice, reason.text(held=choice.move is Move.HOLD)


def _stall_elsewhere(tuner: Tuner, here: Link, rungs: tuple[Rung, ...], compute_seconds: float) -> float:
    """What the other link classes use of the budget, none of them more than its even share.

    A straggler claims nothing: the target cannot be kept, and fewer bits elsewhere would not mend that.
    """
    share = _even_share(tuner, compute_seconds)
    used = 0.0
    for link in tuner.links:
        rung = rung_at(tuner, link.millibits)
        if link is not here and rung is not None and not _straggles(tuner, link, rungs, share):
            (now,) = forecast.outlooks(link.operations, (rung,), forecast.plainly, codec_factor=tuner.codec_factor)
            used += min(share, now.stall_seconds)
    return used


def _straggled_shares(tuner: Tuner, here: Link, rungs: tuple[Rung, ...], compute_seconds: float) -> float:
    """The even shares of the budget that stragglers have given up."""
    share = _even_share(tuner, compute_seconds)
    return share * sum(link is not here and _straggles(tuner, link, rungs, share) for link in tuner.links)


def _straggles(tuner: Tuner, link: Link, rungs: tuple[Rung, ...], share_seconds: float) -> bool:
    """Whether no rung brings a link class within its share of the budget."""
    priced = forecast.outlooks(link.operations, rungs, forecast.plainly, codec_factor=tuner.codec_factor)
    return min(outlook.stall_seconds for outlook in priced) > share_seconds


def _even_share(tuner: Tuner, compute_seconds: float) -> float:
    return compute_seconds * tuner.limits.target_stall_percent / 100 / max(len(tuner.links), 1)


def _frozen(limits: Limits, step: Step) -> bool:
    """Whether a directive sent now would take hold in warm-up or in the last steps of a prompt."""
    steps = max(limits.steps_per_prompt, 1)
    takes_hold_at = (step.step + _DIRECTIVE_TAKES_STEPS) % steps
    if takes_hold_at < min(limits.warmup_steps, steps - 1):
        return True
    return steps >= _FEWEST_STEPS_TO_FREEZE_LAST and takes_hold_at >= steps - FROZEN_LAST_STEPS


def _in_force(tuner: Tuner, link: Link, rungs: tuple[Rung, ...]) -> Rung:
    """The rung that a link class is at: an allowed one if any has its rate, otherwise the ladder's nearest."""
    same = next((rung for rung in rungs if rung.millibits == link.millibits), None)
    return same or rung_at(tuner, link.millibits) or Rung("as it is", link.millibits)
