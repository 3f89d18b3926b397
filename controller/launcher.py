"""What a plan's actions are carried out by: processes on one machine, or pods in a cluster."""

from __future__ import annotations

from typing import Protocol

from thinwire.controller.plan import Attempt, StopReason


class Launcher(Protocol):
    """Starts and stops the gangs of one job, and finds those that run already."""

    async def attempts(self) -> tuple[Attempt, ...]:
        """Every attempt there has been, running or ended, whoever started it."""

    async def start(self, number: int) -> None:
        """Start attempt `number`. A number is started once only.

        Raises:
            LaunchError: that cannot be done, now or later.
            NotYetError: something outside the job is missing.
        """

    async def stop(self, number: int, reason: StopReason) -> None:
        """Tell attempt `number` to end and remember why; returns before it has ended."""


class LaunchError(Exception):
    """An attempt cannot be started: `reason` in a word, and a message that says why and what to do."""

    def __init__(self, message: str, reason: str = "NotStarted") -> None:
        super().__init__(message)
        self.reason = reason


class NotYetError(Exception):
    """An attempt cannot be started until something outside the job has changed: `reason` in a word, else a sentence."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
