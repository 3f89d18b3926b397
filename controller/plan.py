"""What to do next for one job: a pure function of the job, its attempts, its telemetry and the time.

The same plan drives processes on one machine and pods in a cluster: a launcher carries its actions out. A gang is
always started and stopped as a whole; one that ends badly is started again as the next attempt, at most
`max_restarts` times.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

BAD_INPUT = 2

_LONGEST_BACKOFF_SECONDS = 60.0


class State(StrEnum):
    """What a job is doing; the names of the proto's JobState."""

    PENDING = "Pending"
    STARTING = "Starting"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    RESTARTING = "Restarting"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"

    @property
    def ended(self) -> bool:
        """Whether nothing will happen any more."""
        return self in (State.SUCCEEDED, State.FAILED)


class StopReason(StrEnum):
    """Why an attempt was told to stop: such an end is no failure of the ranks.

    Evicted: a queue took back the place that it had given.
    """

    SUSPENDED = "suspended"
    EVICTED = "evicted"
    DEADLINE = "deadline"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True)
class Job:
    """What the plan needs of a DiffusionJob. Times are seconds since the epoch."""

    created_seconds: float
    suspend: bool = False
    active_deadline_seconds: int | None = None
    max_restarts: int = 0
    first_attempt: int = 1
    state: State = State.PENDING
    message: str = ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One gang of ranks as the launcher finds it. `exit_code` is None while any of it lives.

    `message` says why it ended, or what it is at while it starts. `held`: a queue has not admitted it, or not any more.
    `failing`: it has failed, but parts of it live yet.
    """

    number: int
    exit_code: int | None = None
    ended_seconds: float = 0.0
    message: str = ""
    stop: StopReason | None = None
    held: bool = False
    failing: bool = False

    @property
    def failed(self) -> bool:
        """Whether it ended badly by itself."""
        return self.exit_code not in (None, 0) and self.stop is None


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What rank 0 has said of the running attempt. `attempt` 0: nothing yet."""

    attempt: int = 0
    steps_reported: int = 0
    failure: str = ""


@dataclass(frozen=True, slots=True)
class StartAttempt:
    """Start a gang with this number."""

    number: int


@dataclass(frozen=True, slots=True)
class StopAttempt:
    """Tell a gang to stop, and remember why."""

    number: int
    reason: StopReason


Action = StartAttempt | StopAttempt


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, what the job's status becomes, and when to think again without being asked (None: no need).

    `reason` is one word for why, where the state alone does not say it.
    """

    actions: tuple[Action, ...]
    state: State
    message: str
    restarts: int
    again_in_seconds: float | None = None
    reason: str = ""


def plan(job: Job, attempts: tuple[Attempt, ...], telemetry: Telemetry, now_seconds: float) -> Plan:
    """Decide for one job. Attempts before `job.first_attempt` belong to an earlier run and do not count."""
    own = sorted((one for one in attempts if one.number >= job.first_attempt), key=lambda one: one.number)
    running = [one for one in attempts if one.exit_code is None]
    failures = sum(one.failed for one in own)
    restarts = max(len([one for one in own if one.stop not in (StopReason.SUSPENDED, StopReason.EVICTED)]) - 1, 0)
    if job.state.ended:
        return Plan(_stop(running, StopReason.SUPERSEDED), job.state, job.message, restarts)
    last = own[-1] if own else None
    if last is not None and last.exit_code == 0:
        return Plan(_stop(running, StopReason.SUPERSEDED), State.SUCCEEDED, "all prompts are done", restarts)
    late = _late(job, now_seconds)
    if late is not None and late <= 0:
        message = f"activeDeadlineSeconds of {job.active_deadline_seconds} have passed; allow more or ask for less"
        return Plan(_stop(running, StopReason.DEADLINE), State.FAILED, message, restarts)
    if job.suspend:
        return Plan(_stop(running, StopReason.SUSPENDED), State.SUSPENDED, "suspended by runPolicy.suspend", restarts)
    if running:
        return _beside(running, telemetry, restarts, late)
    if last is None or not last.failed:
        number = last.number + 1 if last else job.first_attempt
        return Plan((StartAttempt(number),), State.STARTING, f"attempt {number} starts", restarts, late)
    return _after_failure(job, last, failures, telemetry, restarts, now_seconds)


def _beside(running: list[Attempt], telemetry: Telemetry, restarts: int, late: float | None) -> Plan:
    newest = max(running, key=lambda one: one.number)
    older = [one for one in running if one is not newest]
    heard = telemetry.attempt == newest.number
    if newest.failing:
        return Plan(_stop(older, StopReason.SUPERSEDED), State.RESTARTING, newest.message, restarts, late)
    if newest.held:
        return _held(newest, older, restarts, late, has_run=heard)
    if heard and telemetry.steps_reported:
        return Plan(_stop(older, StopReason.SUPERSEDED), State.RUNNING, "", restarts, late)
    message = "ranks are up, first step under way" if heard else newest.message or "ranks start and load the model"
    return Plan(_stop(older, StopReason.SUPERSEDED), State.STARTING, message, restarts, late)


def _held(newest: Attempt, older: list[Attempt], restarts: int, late: float | None, *, has_run: bool) -> Plan:
    """A gang that has run is queued again as the next attempt: its ranks would tell the same numbers a second time."""
    if not has_run:
        message = newest.message or "waits for its queue to admit it"
        return Plan(_stop(older, StopReason.SUPERSEDED), State.PENDING, message, restarts, late)
    message = f"attempt {newest.number} was evicted by its queue; it queues again as the next one"
    return Plan(_stop([*older, newest], StopReason.EVICTED), State.PENDING, message, restarts, late)


def _after_failure(
    job: Job, last: Attempt, failures: int, telemetry: Telemetry, restarts: int, now_seconds: float
) -> Plan:
    cause = (telemetry.failure if telemetry.attempt == last.number else "") or last.message or f"exit {last.exit_code}"
    if last.exit_code == BAD_INPUT:
        return Plan((), State.FAILED, cause, restarts)
    if failures > job.max_restarts:
        allowed = f"maxRestarts {job.max_restarts}"
        return Plan((), State.FAILED, f"attempt {last.number} failed and none is left ({allowed}): {cause}", restarts)
    wait = last.ended_seconds + backoff_seconds(failures) - now_seconds
    message = f"attempt {last.number} failed ({cause}); restart {failures} of {job.max_restarts}"
    if wait > 0:
        return Plan((), State.RESTARTING, message, restarts, wait)
    return Plan((StartAttempt(last.number + 1),), State.RESTARTING, message, restarts + 1)


def backoff_seconds(failures: int) -> float:
    """Seconds to wait before the restart that follows failure number `failures`: none, then 1, 2, 4 ... 60."""
    return 0.0 if failures <= 1 else min(2.0 ** (failures - 2), _LONGEST_BACKOFF_SECONDS)


def _late(job: Job, now_seconds: float) -> float | None:
    """Seconds left until the deadline, or None without one."""
    if job.active_deadline_seconds is None:
        return None
    return job.created_seconds + job.active_deadline_seconds - now_seconds


def _stop(running: list[Attempt], reason: StopReason) -> tuple[StopAttempt, ...]:
    return tuple(StopAttempt(one.number, reason) for one in running if one.stop is None)
