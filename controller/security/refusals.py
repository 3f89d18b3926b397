"""What was refused at the door, and how often: counted for the metrics, said to the caller, never with its token."""

from __future__ import annotations

from collections import Counter

import grpc
import structlog

from thinwire.controller.token_bucket import TokenBuckets

_log = structlog.get_logger(__name__)

_LINES_BURST, _LINES_PER_SECOND = 100, 1.0


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
        self._lines: TokenBuckets[str] = TokenBuckets(_LINES_BURST, _LINES_PER_SECOND)

    def add(self, reason: str, **said: object) -> None:
        """Count one more and log it, unless so many came for this reason that the count alone has to do."""
        self._counts[reason] += 1
        if self._lines.take(reason):
            _log.warning("call_refused", reason=reason, count=self._counts[reason], **said)

    def counts(self) -> dict[str, int]:
        """How often for each reason so far."""
        return dict(self._counts)
