"""What was refused at the door, and how often: counted for the metrics, said to the caller, never with its token."""

from __future__ import annotations

from collections import Counter

import grpc


class RefusedError(Exception):
    """A call that is not let in. `reason` is a fixed word for counting; the message says what to do."""

    def __init__(self, code: grpc.StatusCode, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


class Refusals:
    """Counts by reason, since this process began. Reasons are fixed words, so their number is bounded."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, reason: str) -> None:
        """One more."""
        self._counts[reason] += 1

    def counts(self) -> dict[str, int]:
        """How often for each reason so far."""
        return dict(self._counts)
