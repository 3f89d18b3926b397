"""The end of a step: one small collective, and then every rank knows the same and goes on alike.

Rank 0 polls for a directive before it; all take the same one. Nothing here waits for anything but the ranks themselves.
Under PipeFusion even that would stand still: stages are never in the same step. There a rank takes the agreement of the
step before (`lag` 1), which is long there, and what follows from a step holds from the one after the next on.
"""

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog
import torch
import torch.distributed as dist

from thinwire.compression import Exchange
from thinwire.runtime.exchange.control import Change, ExchangeState, Policy, StepOutcome, decide, next_prompt
from thinwire.runtime.exchange.meter import Operation, StepMeter
from thinwire.runtime.exchange.moment import CHECKSUM_EVERY_STEPS, Moment, Stamp
from thinwire.runtime.exchange.report import RankReport, StepTotals, count_mismatches, transfers_of
from thinwire.runtime.exchange.streams import Audiences, Streams
from thinwire.runtime.exchange.windows import Groups, windows_of
from thinwire.runtime.exchange.wire import Neighbours
from thinwire.runtime.facts import Directive, Retune, StepFacts, StepHooks
from thinwire.runtime.parallel import LinkClass, World

_EXCHANGES = {
    Operation.RING: (Exchange.RING,),
    Operation.ULYSSES: (Exchange.ULYSSES_INPUT, Exchange.ULYSSES_OUTPUT),
    Operation.GUIDANCE: (Exchange.GUIDANCE,),
    Operation.PIPEFUSION: (Exchange.PIPEFUSION,),
    Operation.GATHER: (Exchange.RING,),
    Operation.DISTRIFUSION: (Exchange.RING,),
}

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Counters:
    """Since the attempt began, over all ranks."""

    sent_bytes: int = 0
    uncompressed_bytes: int = 0
    values: int = 0
    counted_bytes: int = 0
    frames_refused: int = 0
    key_frames_forced: int = 0
    base_mismatches: int = 0
    base_bytes: int = 0
    """Largest of the ranks, in the last step."""


@dataclass(frozen=True, slots=True)
class _Agreement:
    """A step that this rank has ended, while the others' word about it is under way."""

    prompt: str
    stamp: Stamp
    report: RankReport
    everybody: torch.Tensor
    work: Any


_UNKNOWN = StepOutcome(max_relative_error=0.0, frames_refused=0, base_mismatches=0, directive=None)
"""Of a step that nobody has spoken of yet."""


@dataclass(slots=True)
class StepBoundary:
    """Ends every step of a run whose exchange is ours."""

    world: World
    policy: Policy
    state: ExchangeState
    streams: Streams
    moment: Moment
    meter: StepMeter
    groups: Groups
    audiences: Audiences
    most_transfers: int
    """Of one rank in a step."""
    hooks: StepHooks
    listens: bool
    """Whether rank 0 listens for directives."""
    lag: int = 0
    reads_later: int = 0
    """Steps after a frame is written in which it may be read: 1 where what is exchanged is for the next step."""
    prompt: str = ""
    pending: deque[_Agreement] = field(default_factory=deque)
    counters: Counters = field(default_factory=Counters)

    def begin_prompt(self, prompt: str, first_job_step: int) -> None:
        """Start a prompt: bases are forgotten, the first step is a key frame."""
        self.prompt = prompt
        self.streams.reset()
        self.state = next_prompt(self.state)
        self._enter(first_job_step, 0)

    def end_step(self) -> None:
        """Agree with all ranks on what a step was and what the next one is to be; tell rank 0's hooks."""
        self.pending.append(self._speak())
        if len(self.pending) > self.lag:
            self._conclude(self.pending.popleft())
        else:
            self.state = decide(self.state, _UNKNOWN, self.policy, self.moment.step + 1).state
        self._enter(self.moment.job_step + 1, self.moment.step + 1)

    def end_prompt(self) -> None:
        """Hear what is still to be said of a prompt's last steps."""
        while self.pending:
            self._conclude(self.pending.popleft())

    def _conclude(self, agreement: _Agreement) -> None:
        reports = self._heard(agreement)
        refused = sum(int(report.totals.frames_refused) for report in reports)
        outcome = StepOutcome(
            max_relative_error=max(report.totals.max_relative_error for report in reports),
            frames_refused=refused,
            # A base that missed a frame differs, and that is known already.
            base_mismatches=0 if refused else count_mismatches(reports),
            directive=reports[0].directive,
        )
        decision = decide(self.state, outcome, self.policy, self.moment.step + 1)
        self._count(agreement.stamp, reports, outcome, forced=decision.forced_key_frame)
        if self.world.rank == 0:
            self.hooks.on_step(self._facts(agreement, reports, outcome, decision.changes, decision.state.epoch))
        self.state = decision.state
        self._drop_bases_of_uncoded()

    def _enter(self, job_step: int, step: int) -> None:
        rungs = self.state.rungs(self.policy.table)
        self.moment.enter(Stamp(job_step, step, self.state.epoch, self.state.key_frame, rungs))
        self.meter.start()
        self.moment.step_started = time.perf_counter()

    def _report(self) -> RankReport:
        meter, size = self.meter, self.world.size
        seconds = time.perf_counter() - self.moment.step_started
        nothing = [0] * size
        checks = (self.moment.step + 1 - self.reads_later) % CHECKSUM_EVERY_STEPS == 0
        sent, heard = self.streams.noted_checksums(size, self.audiences) if checks else (nothing, nothing)
        return RankReport(
            totals=StepTotals.measured(meter, seconds, self.streams.base_bytes),
            directive=self._newest_directive(),
            sent_checksums=sent,
            heard_checksums=heard,
            encode_seconds=[meter.encode_seconds[operation] for operation in Operation],
            decode_seconds=[meter.decode_seconds[operation] for operation in Operation],
            transfers=transfers_of(meter.samples),
        )

    def _newest_directive(self) -> Directive | None:
        """Return what rank 0 has heard; rates stay frozen while whole frames are sent anyway."""
        if self.world.rank != 0 or not self.listens or self.moment.step + 1 < self.policy.warmup_steps:
            return None
        return self.hooks.newest_directive()

    def _speak(self) -> _Agreement:
        report = self._report()
        own = torch.from_numpy(report.to_vector(self.most_transfers))
        everybody = torch.empty(self.world.size * own.numel(), dtype=torch.float64)
        work = dist.all_gather_single(everybody, own, group=self.world.control, async_op=True)
        return _Agreement(self.prompt, self.moment.stamp, report, everybody, work)

    def _heard(self, agreement: _Agreement) -> list[RankReport]:
        agreement.work.wait()
        vectors = agreement.everybody.view(self.world.size, -1).numpy()
        reports = [RankReport.from_vector(vector, self.world.size) for vector in vectors]
        if self.world.rank == 0 and agreement.report.directive is not None:
            reports[0] = agreement.report
        return reports

    def _count(self, stamp: Stamp, reports: list[RankReport], outcome: StepOutcome, *, forced: bool) -> None:
        counters = self.counters
        counters.sent_bytes += sum(int(report.totals.sent_bytes) for report in reports)
        counters.uncompressed_bytes += sum(int(report.totals.uncompressed_bytes) for report in reports)
        counters.values += sum(int(report.totals.values) for report in reports)
        counters.counted_bytes += sum(int(report.totals.counted_bytes) for report in reports)
        counters.frames_refused += outcome.frames_refused
        counters.base_mismatches += outcome.base_mismatches
        counters.key_frames_forced += forced
        counters.base_bytes = max(int(report.totals.base_bytes) for report in reports)
        if forced:
            log.warning(
                "exchange.key_frame_forced",
                job_step=stamp.job_step,
                max_relative_error=outcome.max_relative_error,
                frames_refused=outcome.frames_refused,
                base_mismatches=outcome.base_mismatches,
            )

    def _drop_bases_of_uncoded(self) -> None:
        rungs, last = self.state.rungs(self.policy.table), self.moment.stamp.rungs
        for operation, groups in self.groups.items():
            # What is read a step later still needs the bases of the step that ends.
            needed = [last] if self.reads_later else []
            if all(step.get(link_class) is None for link_class, _ in groups for step in (rungs, *needed)):
                self.streams.drop(_EXCHANGES[operation])

    def _facts(
        self,
        agreement: _Agreement,
        reports: list[RankReport],
        outcome: StepOutcome,
        changes: tuple[Change, ...],
        epoch: int,
    ) -> StepFacts:
        stamp, counters, table = agreement.stamp, self.counters, self.policy.table
        return StepFacts(
            job_step=stamp.job_step,
            prompt=agreement.prompt,
            step=stamp.step,
            step_seconds=max(report.totals.step_seconds for report in reports),
            compute_seconds=max(report.totals.compute_seconds for report in reports),
            max_relative_error=outcome.max_relative_error,
            epoch=stamp.epoch,
            rates={str(link): table.millibits(rung) for link, rung in stamp.rungs.items()},
            key_frame=stamp.key_frame and any(rung is not None for rung in stamp.rungs.values()),
            windows=windows_of(reports, self.groups),
            bytes_sent=counters.sent_bytes,
            bytes_uncompressed=counters.uncompressed_bytes,
            bytes_uncompressed_fp16=2 * counters.values,
            bytes_counted=counters.counted_bytes,
            frames_refused=counters.frames_refused,
            key_frames_forced=counters.key_frames_forced,
            base_mismatches=counters.base_mismatches,
            base_memory_bytes=counters.base_bytes,
            retunes=tuple(
                Retune(
                    job_step=self.moment.job_step + 1,
                    prompt=self.prompt,
                    step=self.moment.step + 1,
                    epoch=epoch,
                    link_class=change.link_class,
                    from_millibits=change.from_millibits,
                    to_millibits=change.to_millibits,
                    reason=change.reason,
                )
                for change in changes
            ),
        )

    def rates(self) -> Mapping[str, int]:
        """Return what really travels for one value now, by link class, key frames aside."""
        table = self.policy.table
        return {str(link): table.millibits(rung) for link, rung in self.state.rungs(table).items()}


def groups_of(world: World, own: Mapping[Operation, Neighbours]) -> Groups:
    """Return every rank's groups. Collective: each rank brings its own, for the same operations."""
    groups: dict[Operation, list[tuple[LinkClass, tuple[int, ...]]]] = {}
    classes = list(LinkClass)
    for operation, neighbours in own.items():
        mine = torch.tensor([classes.index(neighbours.link_class), *neighbours.ranks])
        everybody = torch.empty(world.size * mine.numel(), dtype=torch.int64)
        dist.all_gather_single(everybody, mine, group=world.control)
        members = {(tuple(ranks), classes[place]) for place, *ranks in everybody.view(world.size, -1).tolist()}
        groups[operation] = [(link_class, ranks) for ranks, link_class in sorted(members)]
    return groups
