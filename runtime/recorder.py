"""Rank 0's ear: every fact of a run goes into the event file, to the controller and into the pictures."""

import time
from collections.abc import Callable

import structlog
from google.protobuf import json_format

from thinwire.proto.thinwire.v1alpha1 import telemetry_pb2 as pb
from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import Prompt, RunSpec
from thinwire.runtime import messages
from thinwire.runtime.errors import BadInputError
from thinwire.runtime.events import AttemptFinished, AttemptStarted, Event, EventLog, PromptFinished, Record
from thinwire.runtime.facts import Directive, RunFacts, StepFacts
from thinwire.runtime.output import OutputFolder, RateSpan
from thinwire.runtime.telemetry import TelemetryClient

_log = structlog.get_logger(__name__)


class Recorder:
    """The `StepHooks` of rank 0. Steps are recorded without waiting; what fails on the way is kept for `check`."""

    def __init__(self, spec: RunSpec, folder: OutputFolder, *, clock: Callable[[], float] = time.time) -> None:
        self._spec = spec
        self._folder = folder
        self._clock = clock
        self._started = time.monotonic()
        self._events: EventLog | None = None
        self._telemetry: TelemetryClient | None = None
        self._failure: BadInputError | None = None
        self._rates: list[RateSpan] = []

    def begin(self, facts: RunFacts, *, prompts_finished: int) -> None:
        """Record that the attempt has started, and call the controller if there is one.

        Raises:
            OutputError: the event file cannot be written to.
        """
        self._events = EventLog(self._folder.events)
        self._append(
            AttemptStarted(
                attempt=self._spec.attempt,
                versions=facts.versions,
                world_size=facts.world_size,
                spec=json_format.MessageToDict(self._spec),
                ladder=facts.ladder,
                rates=facts.rates,
                base_memory_bytes=facts.base_memory_bytes,
                kernel=facts.kernel,
                link_is_emulated=facts.link_is_emulated,
                prompts_finished=prompts_finished,
                load_seconds=time.monotonic() - self._started,
            )
        )
        self._started = time.monotonic()
        self.check()
        self._connect(messages.hello(self._spec, facts, prompts_finished=prompts_finished))

    def on_step(self, facts: StepFacts) -> None:
        """Take a finished step, and the retunes that its end brought."""
        self._append(facts)
        for retune in facts.retunes:
            self._append(retune)
            _log.info(
                "rate.retuned",
                job_step=retune.job_step,
                link_class=retune.link_class,
                from_millibits=retune.from_millibits,
                to_millibits=retune.to_millibits,
                reason=retune.reason,
            )
        if not self._rates or self._rates[-1].rates != facts.rates:
            self._rates.append(RateSpan(facts.step, dict(facts.rates)))
        if self._telemetry is not None:
            report = messages.step_report(facts, wall_time=self._clock())
            self._telemetry.step(report, tuple(messages.retune(applied) for applied in facts.retunes))

    def newest_directive(self) -> Directive | None:
        """Return the controller's newest word, if there is one."""
        return self._telemetry.newest_directive() if self._telemetry is not None else None

    def take_rate_history(self) -> tuple[RateSpan, ...]:
        """Return the rates since the last call: those of the prompt that has just finished."""
        history, self._rates = tuple(self._rates), []
        return history

    def prompt_finished(self, prompt: Prompt, file: str, *, seconds: float, prompts_finished: int) -> None:
        """Record that a picture is in its place, and have the disk keep all that was recorded."""
        self._append(PromptFinished(prompt.name, prompt.seed, file, seconds))
        if self._events is not None and self._failure is None:
            self._events.sync()
        if self._telemetry is not None:
            self._telemetry.prompt_finished(
                pb.PromptFinished(
                    prompt_name=prompt.name,
                    seed=prompt.seed,
                    file=file,
                    seconds=seconds,
                    prompts_done=prompts_finished,
                )
            )

    def check(self) -> None:
        """Raise what went wrong since the last check.

        Raises:
            OutputError: an event could not be written.
        """
        if self._failure is not None:
            raise self._failure

    def end(self, *, succeeded: bool, message: str = "") -> None:
        """Record how the attempt ended, and tell the controller, once and for all."""
        self._write_end(succeeded, message)
        if self._telemetry is None:
            self._connect(messages.bare_hello(self._spec))
        if self._telemetry is not None:
            self._telemetry.close(pb.RunFinished(succeeded=succeeded, message=message))

    def abandon(self, error: Exception) -> None:
        """Record an unexpected end. The controller is told nothing: it sees the exit code, and may try again."""
        first_line, *_ = str(error).strip().splitlines() or [""]
        self._write_end(succeeded=False, message=f"{type(error).__name__}: {first_line}")

    def _write_end(self, succeeded: bool, message: str) -> None:
        self._append(AttemptFinished(self._spec.attempt, succeeded, message, time.monotonic() - self._started))
        if self._events is not None:
            self._events.close()
            self._events = None

    def _connect(self, hello: pb.Hello) -> None:
        if self._spec.telemetry_address:
            security = self._spec.telemetry_security if self._spec.HasField("telemetry_security") else None
            self._telemetry = TelemetryClient(self._spec.telemetry_address, hello, security=security)

    def _append(self, event: Event) -> None:
        if self._events is None or self._failure is not None:
            return
        try:
            self._events.append(Record(self._clock(), event))
        except BadInputError as error:
            self._failure = error
