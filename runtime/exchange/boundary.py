"""The end of a step: one small collective, and then every rank knows the same and goes on alike.

Rank 0 polls for a directive before it; all take the same one. Nothing here waits for anything but the ranks themselves.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy
import structlog
import torch
import torch.distributed as dist

from thinwire.compression import Exchange
from thinwire.runtime.exchange.control import Change, ExchangeState, Policy, StepOutcome, decide, next_prompt
from thinwire.runtime.exchange.meter import Operation, StepMeter
from thinwire.runtime.exchange.moment import Moment
from thinwire.runtime.exchange.report import RankReport, StepTotals, count_mismatches
from thinwire.runtime.exchange.streams import Streams
from thinwire.runtime.exchange.windows import Groups, windows_of
from thinwire.runtime.facts import Directive, Retune, StepFacts, StepHooks
from thinwire.runtime.parallel import LinkClass, World

CHECKSUM_EVERY_STEPS = 8
_EXCHANGES = {
    Operation.RING: (Exchange.RING,),
    Operation.ULYSSES: (Exchange.ULYSSES_INPUT, Exchange.ULYSSES_OUTPUT),
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
    ring_ranks: tuple[int, ...]
    hooks: StepHooks
    adaptive: bool
    """Whether rank 0 listens for directives."""
    prompt: str = ""
    counters: Counters = field(default_factory=Counters)

    def begin_prompt(self, prompt: str, first_job_step: int) -> None:
        """Start a prompt: bases are forgotten, the first step is a key frame."""
        self.prompt = prompt
        self.streams.reset()
        self.state = next_prompt(self.state)
        self._enter(first_job_step, 0)

    def end_step(self) -> None:
        """Agree with all ranks on what the step was and what the next one is to be; tell rank 0's hooks."""
        reports = self._exchange_reports(self._report())
        refused = sum(int(report.totals.frames_refused) for report in reports)
        outcome = StepOutcome(
            max_relative_error=max(report.totals.max_relative_error for report in reports),
            frames_refused=refused,
            # A base that missed a frame differs, and that is known already.
            base_mismatches=0 if refused else count_mismatches(reports),
            directive=reports[0].directive,
        )
        decision = decide(self.state, outcome, self.policy, self.moment.step + 1)
        self._count(reports, outcome, forced=decision.forced_key_frame)
        if self.world.rank == 0:
            self.hooks.on_step(self._facts(reports, outcome, decision.changes, decision.state.epoch))
        self.state = decision.state
        self._drop_bases_of_uncoded()
        self._enter(self.moment.job_step + 1, self.moment.step + 1)

    def _enter(self, job_step: int, step: int) -> None:
        moment = self.moment
        moment.job_step, moment.step, moment.branch = job_step, step, -1
        moment.epoch, moment.key_frame = self.state.epoch, self.state.key_frame
        moment.rungs = self.state.rungs(self.policy.table)
        self.meter.start()
        moment.step_started = time.perf_counter()

    def _report(self) -> RankReport:
        meter, size = self.meter, self.world.size
        seconds = time.perf_counter() - self.moment.step_started
        checks = (self.moment.step + 1) % CHECKSUM_EVERY_STEPS == 0
        sent, heard = self.streams.checksums(size, self.ring_ranks) if checks else ([0] * size, [0] * size)
        return RankReport(
            totals=StepTotals.measured(meter, seconds, self.streams.base_bytes),
            directive=self._newest_directive(),
            sent_checksums=sent,
            heard_checksums=heard,
            encode_seconds=[meter.encode_seconds[operation] for operation in Operation],
            decode_seconds=[meter.decode_seconds[operation] for operation in Operation],
            durations=[sample.seconds for sample in meter.samples],
        )

    def _newest_directive(self) -> Directive | None:
        """Return what rank 0 has heard; rates stay frozen while whole frames are sent anyway."""
        if self.world.rank != 0 or not self.adaptive or self.moment.step + 1 < self.policy.warmup_steps:
            return None
        return self.hooks.newest_directive()

    def _exchange_reports(self, report: RankReport) -> list[RankReport]:
        own = torch.from_numpy(report.to_vector())
        everybody = torch.empty(self.world.size * own.numel(), dtype=torch.float64)
        dist.all_gather_single(everybody, own, group=self.world.control)
        vectors = everybody.view(self.world.size, -1).numpy()
        reports = [RankReport.from_vector(vector, self.world.size) for vector in vectors]
        if self.world.rank == 0 and report.directive is not None:
            reports[0] = report
        return reports

    def _count(self, reports: list[RankReport], outcome: StepOutcome, *, forced: bool) -> None:
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
                job_step=self.moment.job_step,
                max_relative_error=outcome.max_relative_error,
                frames_refused=outcome.frames_refused,
                base_mismatches=outcome.base_mismatches,
            )

    def _drop_bases_of_uncoded(self) -> None:
        rungs = self.state.rungs(self.policy.table)
        for operation, groups in self.groups.items():
            if all(rungs.get(link_class) is None for link_class, _ in groups):
                self.streams.drop(_EXCHANGES[operation])

    def _facts(
        self, reports: list[RankReport], outcome: StepOutcome, changes: tuple[Change, ...], epoch: int
    ) -> StepFacts:
        moment, counters = self.moment, self.counters
        return StepFacts(
            job_step=moment.job_step,
            prompt=self.prompt,
            step=moment.step,
            step_seconds=max(report.totals.step_seconds for report in reports),
            compute_seconds=max(report.totals.compute_seconds for report in reports),
            max_relative_error=outcome.max_relative_error,
            epoch=moment.epoch,
            rates=self.rates(),
            key_frame=moment.key_frame and any(rung is not None for rung in moment.rungs.values()),
            windows=windows_of(self.meter.samples, reports, self.groups),
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
                    job_step=moment.job_step + 1,
                    prompt=self.prompt,
                    step=moment.step + 1,
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


def groups_of(world: World, ring: tuple[int, ...] | None, ulysses: tuple[int, ...] | None) -> Groups:
    """Return every rank's groups. Collective: each rank brings the ranks of its own."""
    groups: dict[Operation, list[tuple[LinkClass, tuple[int, ...]]]] = {}
    for operation, own in ((Operation.RING, ring), (Operation.ULYSSES, ulysses)):
        if own is None:
            continue
        mine = torch.from_numpy(numpy.array(own, dtype=numpy.int64))
        everybody = torch.empty(world.size * len(own), dtype=torch.int64)
        dist.all_gather_single(everybody, mine, group=world.control)
        members = sorted({tuple(int(rank) for rank in row) for row in everybody.view(world.size, -1)})
        groups[operation] = [(world.link_class(list(ranks)), ranks) for ranks in members]
    return groups
