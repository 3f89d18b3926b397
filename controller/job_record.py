"""Everything a controller knows of one job, as one immutable value: each report or plan makes the next one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from thinwire.controller.plan import State
from thinwire.controller.policy.tuner import Tuner
from thinwire.proto.thinwire.v1alpha1 import status_pb2, telemetry_pb2

HISTORY_SAMPLES = 8192
RETUNES = 512


@dataclass(frozen=True, slots=True, order=True)
class JobKey:
    """A job's name in its namespace."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Allowed:
    """What the manifest lets the law choose now: it may change while an attempt runs, which knows how it began."""

    min_millibits: int
    max_millibits: int
    target_stall_percent: int


@dataclass(frozen=True, slots=True)
class Heard:
    """What rank 0 of the newest attempt has said. `sequence` is the highest number taken in, -1 before the first."""

    attempt: int = 0
    sequence: int = -1
    steps_reported: int = 0
    hello: telemetry_pb2.Hello | None = None
    step: telemetry_pb2.StepReport | None = None
    tuner: Tuner | None = None
    prompts_done: int = 0
    finished: telemetry_pb2.RunFinished | None = None
    last_reason: str = ""
    at_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A snapshot. Messages in it are never changed after they are put here. Times are seconds since the epoch."""

    key: JobKey
    prompts_total: int = 0
    steps_per_prompt: int = 0
    link_is_emulated: bool = False
    state: State = State.PENDING
    message: str = ""
    attempt: int = 0
    restarts: int = 0
    start_seconds: float = 0.0
    completion_seconds: float = 0.0
    heard: Heard = Heard()
    samples: tuple[status_pb2.Sample, ...] = ()
    retunes: tuple[telemetry_pb2.Retune, ...] = ()
    refused: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    bytes_before: tuple[int, int] = (0, 0)
    allowed: Allowed | None = None
    samples_kept: int = HISTORY_SAMPLES
    plan: status_pb2.JobPlan | None = None

    def refusing(self, reason: str) -> JobRecord:
        """The same job with one more refused report."""
        counts = dict(self.refused)
        counts[reason] = counts.get(reason, 0) + 1
        return replace(self, refused=MappingProxyType(counts))
