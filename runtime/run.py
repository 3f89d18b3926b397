"""One attempt, as every rank lives it: open the session, make the missing pictures in rounds, say how it ended.

Rank 0 alone touches the output folder; whatever it finds there, good or bad, it tells the others before anybody acts on
it, so that all ranks go on or end together.
"""

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import structlog

from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import Prompt, RunSpec
from thinwire.runtime.errors import BadInputError
from thinwire.runtime.facts import NoHooks, RunFacts, StepHooks
from thinwire.runtime.fingerprint import model_fingerprint
from thinwire.runtime.output import OutputFolder, PictureMetadata, RateSpan, identity_of
from thinwire.runtime.picture import Made
from thinwire.runtime.recorder import Recorder

_log = structlog.get_logger(__name__)


class SessionLike(Protocol):
    """Ranks that have met, with a model between them."""

    def describe(self) -> RunFacts:
        """Return what is known of the run before its first step."""

    @property
    def replicas(self) -> int:
        """How many prompts are worked on at a time."""

    def generate(self, prompts: Sequence[Prompt], *, first_job_step: int) -> list[Made]:
        """Make a picture of each of at most `replicas` prompts; rank 0 gets them, the others none. Every rank must call
        this.
        """

    def close(self) -> None:
        """Leave the process group."""


OpenSession = Callable[[RunSpec, StepHooks], SessionLike]
Verdict = tuple[str, list[str]]
Tell = Callable[[Verdict], Verdict]
"""Collective: gives every rank what rank 0 passes in."""


def run_attempt(spec: RunSpec, *, rank: int, open_session: OpenSession, tell: Tell) -> None:
    """Make the pictures that are missing from the job's output folder. Every rank calls this with the same spec.

    Raises:
        BadInputError: the job cannot be done. Rank 0 has written it down and told the controller.
        Exception: whatever else happened, on the ranks where it happened.
    """
    if rank != 0:
        _make_pictures(spec, None, open_session, tell)
        return
    leader = _Leader(spec)
    try:
        _make_pictures(spec, leader, open_session, tell)
    except BadInputError as error:
        leader.recorder.end(succeeded=False, message=str(error))
        raise
    except Exception as error:
        leader.recorder.abandon(error)
        raise
    leader.recorder.end(succeeded=True)


def _make_pictures(spec: RunSpec, leader: "_Leader | None", open_session: OpenSession, tell: Tell) -> None:
    session = open_session(spec, leader.recorder if leader else NoHooks())
    try:
        pending = _agree(leader.look if leader else None, tell)
        facts = session.describe()
        _agree(functools.partial(leader.begin, facts) if leader else None, tell)
        finished = len(spec.generation.prompts) - len(pending)
        prompts = [prompt for prompt in spec.generation.prompts if prompt.name in pending]
        for first in range(0, len(prompts), session.replicas):
            round_of = prompts[first : first + session.replicas]
            began = time.monotonic()
            images = session.generate(round_of, first_job_step=finished * spec.generation.steps)
            finished += len(round_of)
            _agree(functools.partial(leader.keep, round_of, images, began) if leader else None, tell)
    finally:
        session.close()


def _agree(act: Callable[[], list[str]] | None, tell: Tell) -> list[str]:
    """Have rank 0 `act`, and return on every rank what it returned.

    Raises:
        BadInputError: rank 0 could not act; on every rank, with the same sentence.
    """
    verdict: Verdict = ("", [])
    if act is not None:
        try:
            verdict = ("", act())
        except BadInputError as error:
            verdict = (str(error), [])
    refusal, value = tell(verdict)
    if refusal:
        raise BadInputError(refusal)
    return value


class _Leader:
    """What rank 0 does beside its share of the computing."""

    def __init__(self, spec: RunSpec) -> None:
        self._spec = spec
        self._folder = OutputFolder(Path(spec.output_dir))
        self.recorder = Recorder(spec, self._folder)
        self._facts: RunFacts | None = None
        self._model = ""
        self._finished = 0

    def look(self) -> list[str]:
        """Return the names of the pictures that are still to be made."""
        spec, prompts = self._spec, self._spec.generation.prompts
        self._folder.prepare()
        self._model = model_fingerprint(Path(spec.model.path))
        pending = self._folder.pending((prompt.name, identity_of(prompt, spec, self._model)) for prompt in prompts)
        self._finished = len(prompts) - len(pending)
        _log.info("output.scanned", folder=str(self._folder.root), finished=self._finished, pending=len(pending))
        return pending

    def begin(self, facts: RunFacts) -> list[str]:
        """Record the start."""
        self._facts = facts
        self.recorder.begin(facts, prompts_finished=self._finished)
        return []

    def keep(self, prompts: Sequence[Prompt], images: Sequence[Made], began: float) -> list[str]:
        """Put a round's pictures in their places; `began` is when their first step did, on the monotonic clock."""
        rates = self.recorder.take_rate_history()
        for prompt, image in zip(prompts, images, strict=True):
            self._keep_one(prompt, image, rates, began)
        return []

    def _keep_one(self, prompt: Prompt, image: Made, rates: tuple[RateSpan, ...], began: float) -> None:
        assert self._facts is not None
        metadata = PictureMetadata(
            name=prompt.name,
            job=self._spec.job_name,
            identity=identity_of(prompt, self._spec, self._model),
            rate_history=rates,
            versions=self._facts.versions,
            link_is_emulated=self._facts.link_is_emulated,
        )
        file = self._folder.write(image, metadata).relative_to(self._folder.root).as_posix()
        seconds = time.monotonic() - began
        self._finished += 1
        self.recorder.prompt_finished(prompt, file, seconds=seconds, prompts_finished=self._finished)
        self.recorder.check()
        _log.info("prompt.finished", prompt=prompt.name, seconds=round(seconds, 3), finished=self._finished)
