"""One job's estimator and law together: reports go in, verdicts come out, nothing else changes.

The rate in force is what the last report says, never what was sent: a directive may be late or lost. While one is under
way the law waits; after `RESEND_STEPS` steps without its epoch the same rates go out again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import median

from thinwire.controller.policy import forecast, law
from thinwire.controller.policy.estimator import introduced, observe
from thinwire.controller.policy.explain import Reason
from thinwire.controller.policy.forecast import Operation
from thinwire.controller.policy.law import Choice, Hysteresis, Move, Views
from thinwire.controller.policy.reports import Limits, Rung, Step, Window, refusal_of_step

RESEND_STEPS = 5
LEAP_STEPS = 1000
FROZEN_LAST_STEPS = 2
_FEWEST_STEPS_TO_FREEZE_LAST = 8
_FIRST_WINDOWS = 3
_REMEMBERED_STEPS = 5
_BARRED_PROMPTS = 2
_CODEC_GAIN = 0.3
_CODEC_FACTOR_LIMITS = (0.1, 20.0)
_DIRECTIVE_TAKES_STEPS = 2
_MOST_LINK_CLASSES = 16
_MOST_OPERATIONS = 16


@dataclass(frozen=True, slots=True)
class Link:
    """What is known and remembered of one link class."""

    link_class: str
    millibits: int
    operations: tuple[Operation, ...] = ()
    memory: Hysteresis = Hysteresis()  # noqa: RUF009 - frozen, so sharing it is safe

    @property
    def bytes_per_second(self) -> float:
        """Throughput of the operation that moves most; 0 while unknown."""
        busiest = self._busiest()
        return busiest.estimate.bytes_per_second if busiest else 0.0

    @property
    def latency_seconds(self) -> float:
        """Fixed cost of one exchange of that operation; 0 while unknown."""
        busiest = self._busiest()
        return busiest.estimate.alpha_seconds if busiest else 0.0

    def _busiest(self) -> Operation | None:
        known = [operation for operation in self.operations if operation.estimate.known]
        return max(known, key=lambda operation: operation.values, default=None)


@dataclass(frozen=True, slots=True)
class Directive:
    """Rates for all link classes from the next step boundary on, and why."""

    epoch: int
    rates: tuple[tuple[str, int], ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The law's answer to one step: a directive if anything changes; a reason, empty while it still learns."""

    directive: Directive | None
    reason: str
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class Tuner:
    """State of one attempt's tuning. Made by `begin`, moved on by `after_step`."""

    ladder: tuple[Rung, ...]
    limits: Limits
    links: tuple[Link, ...]
    epoch: int
    last_job_step: int = -1
    leapt_to_job_step: int | None = None
    steps_seen: int = 0
    compute_seconds: tuple[float, ...] = ()
    exposed_share: float = 1.0
    codec_factor: float = 1.0
    barred_millibits: int = 0
    barred_until_job_step: int = -1
    sent: Directive | None = None
    sent_at_job_step: int = -1


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
    tuner = _heard(tuner, step)
    if first_of_attempt:
        return tuner, Verdict(None, "")
    tuner = _measured(tuner, step)
    if tuner.sent is not None:
        return _awaited(tuner, tuner.sent, step)
    if not tuner.limits.adaptive:
        return tuner, Verdict(None, "the rate is fixed by the manifest")
    return _decided(tuner, step)


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


def _heard(tuner: Tuner, step: Step) -> Tuner:
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


def _measured(tuner: Tuner, step: Step) -> Tuner:
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
        rung = _rung_at(tuner, step.rate_of(window.link_class))
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


def _decided(tuner: Tuner, step: Step) -> tuple[Tuner, Verdict]:
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
        rung = _rung_at(tuner, link.millibits)
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
    return same or _rung_at(tuner, link.millibits) or Rung("as it is", link.millibits)


def _rung_at(tuner: Tuner, millibits: int | None) -> Rung | None:
    if millibits is None:
        return None
    return min(tuner.ladder, key=lambda rung: abs(rung.millibits - millibits), default=None)
