"""What a plan's actions are carried out by: processes on one machine, or pods in a cluster."""

from __future__ import annotations

from typing import Protocol

from thinwire.controller.plan import Attempt, StopReason


class Launcher(Protocol):
    """Starts and stops the gangs of one job, and finds those that run already. Calls may block for a moment."""

    def attempts(self) -> tuple[Attempt, ...]:
        """Every attempt there has been, running or ended, whoever started it."""

    def start(self, number: int) -> None:
        """Start attempt `number`; raises LaunchError if that cannot be done. A number is started once only."""

    def stop(self, number: int, reason: StopReason) -> None:
        """Tell attempt `number` to end and remember why; returns before it has ended."""


class LaunchError(Exception):
    """An attempt could not be started; the message says why and what to do."""
