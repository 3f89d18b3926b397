"""The controller's law in rank 0's own process: its real estimator, law and intake of reports, without gRPC.

A report goes in at a step's end and its directive is taken at the next, as over gRPC.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from thinwire.controller.ingest import greet, take
from thinwire.controller.job_record import JobKey, JobRecord
from thinwire.proto.thinwire.v1alpha1 import run_spec_pb2
from thinwire.proto.thinwire.v1alpha1.telemetry_pb2 import ReportRequest
from thinwire.runtime import messages
from thinwire.runtime.facts import Directive, RunFacts, StepFacts


@dataclass(slots=True)
class LawHooks:
    """StepHooks that keep every fact and ask the law what to do."""

    spec: run_spec_pb2.RunSpec
    steps: list[StepFacts] = field(default_factory=list)
    record: JobRecord | None = None
    sequence: int = 0
    directive: Directive | None = None
    refused: int = 0

    def begin(self, facts: RunFacts) -> None:
        """Say Hello."""
        empty = JobRecord(JobKey(self.spec.namespace, self.spec.job_name))
        hello = messages.hello(self.spec, facts, prompts_finished=0)
        self.sequence += 1
        self.record = greet(empty, ReportRequest(sequence=self.sequence, hello=hello), 0.0)

    def on_step(self, facts: StepFacts) -> None:
        """Report a step and keep what the law answers."""
        self.steps.append(facts)
        if self.record is None:
            return
        self.sequence += 1
        report = messages.step_report(facts, wall_time=0.0)
        taken = take(self.record, ReportRequest(sequence=self.sequence, step=report), 0.0)
        self.record = taken.record
        for answer in taken.answers:
            said = answer.directive
            rates = {rate.link_class: rate.millibits for rate in said.rates}
            self.directive = Directive(said.epoch, rates, said.reason)

    def newest_directive(self) -> Directive | None:
        """Return the newest word."""
        return self.directive

    @property
    def bytes_per_second(self) -> float:
        """What the estimator makes of the link now."""
        tuner = self.record.heard.tuner if self.record is not None else None
        return next((link.bytes_per_second for link in tuner.links), 0.0) if tuner is not None else 0.0
