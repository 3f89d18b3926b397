"""What follows from a step: the rates, the epoch and the key frame of the next one, as a pure function.

Every rank calls it with the same arguments and so comes to the same answer; nothing here is told to anybody.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from thinwire.compression import Rung
from thinwire.runtime.exchange.rates import RateTable
from thinwire.runtime.facts import Directive
from thinwire.runtime.parallel import LinkClass

_CALM_STEPS = 4
"""Steps at no more than half the ceiling after which a raised rung comes down by one."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What does not change in a run."""

    table: RateTable
    warmup_steps: int
    max_relative_error: float
    """Ceiling on |x - decoded| / |x|, in the metric of the bases on transform rungs; 0 for none."""


@dataclass(frozen=True, slots=True)
class ExchangeState:
    """What every rank holds in common between two steps."""

    rates: Mapping[LinkClass, int]
    """As commanded, in millibits per value."""
    epoch: int = 0
    key_frame: bool = True
    raised: int = 0
    """Rungs that the ceiling has put on top of the commanded rates."""
    calm_steps: int = 0

    def rungs(self, table: RateTable) -> dict[LinkClass, Rung | None]:
        """Return what codes on each link class now."""
        return {link: table.raised(table.rung(rate), self.raised) for link, rate in self.rates.items()}


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What a step showed, over all ranks."""

    max_relative_error: float
    frames_refused: int
    base_mismatches: int
    directive: Directive | None


@dataclass(frozen=True, slots=True)
class Change:
    """One link class's change of what really travels, in millibits per value."""

    link_class: LinkClass
    from_millibits: int
    to_millibits: int
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """The state of the next step, and what is new in it."""

    state: ExchangeState
    changes: tuple[Change, ...]
    forced_key_frame: bool
    """Whether something went wrong that a key frame repairs."""


def next_prompt(state: ExchangeState) -> ExchangeState:
    """Return the state of a prompt's first step: a key frame, at the commanded rates.

    What the ceiling raised for the last prompt ends with it, so that a picture does not depend on those before it.
    """
    return replace(state, key_frame=True, raised=0, calm_steps=0)


def decide(state: ExchangeState, outcome: StepOutcome, policy: Policy, next_step: int) -> Decision:
    """Return what the next step (counted from 0 in its prompt) runs with.

    The ceiling: a step above it raises every rate by a rung and makes the next step a key frame, which drops the error
    that the bases hold. A directive is taken if its epoch is above the one in force.
    """
    before = state.rungs(policy.table)
    state, ceiling_reason, above = _with_ceiling(state, outcome.max_relative_error, policy)
    state, reason = _with_directive(state, outcome.directive, policy.table)
    after = state.rungs(policy.table)
    repair = above or outcome.frames_refused > 0 or outcome.base_mismatches > 0
    coded_again = any(before[link] is None and after[link] is not None for link in after)
    in_warmup = next_step < policy.warmup_steps
    state = replace(state, key_frame=repair or coded_again or in_warmup)
    changes = tuple(
        Change(
            link, policy.table.millibits(before[link]), policy.table.millibits(after[link]), reason or ceiling_reason
        )
        for link in after
        if before[link] is not after[link]
    )
    return Decision(state, changes, forced_key_frame=repair)


def _with_directive(state: ExchangeState, directive: Directive | None, table: RateTable) -> tuple[ExchangeState, str]:
    if directive is None or directive.epoch <= state.epoch:
        return state, ""
    rates = {link: directive.rates.get(link, rate) for link, rate in state.rates.items()}
    commanded = replace(state, rates=rates, epoch=directive.epoch)
    return replace(commanded, raised=_least_raise(state, commanded, table)), directive.reason or "directive"


def _least_raise(before: ExchangeState, commanded: ExchangeState, table: RateTable) -> int:
    """Return how much of the ceiling's raise the commanded rates still need: none of it where they bring it along."""
    floor = before.rungs(table)
    for raised in range(before.raised):
        rungs = replace(commanded, raised=raised).rungs(table)
        if all(table.millibits(rungs[link]) >= table.millibits(floor[link]) for link in rungs):
            return raised
    return before.raised


def _with_ceiling(state: ExchangeState, error: float, policy: Policy) -> tuple[ExchangeState, str, bool]:
    ceiling = policy.max_relative_error
    if ceiling <= 0 or state.key_frame:
        return state, "", False
    if error > ceiling:
        reason = f"relative error {error:.3g} above the ceiling {ceiling:.3g}"
        coded = any(rung is not None for rung in state.rungs(policy.table).values())
        raised = state.raised + 1 if coded else state.raised
        return replace(state, raised=raised, calm_steps=0), reason, True
    calm = state.calm_steps + 1 if error <= ceiling / 2 else 0
    if state.raised and calm >= _CALM_STEPS:
        reason = f"relative error {error:.3g} at most half the ceiling {ceiling:.3g} for {calm} steps"
        return replace(state, raised=state.raised - 1, calm_steps=0), reason, False
    return replace(state, calm_steps=calm), "", False
