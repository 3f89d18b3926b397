"""When a job that has ended is deleted, by its `ttlSecondsAfterFinished`."""

from __future__ import annotations

from thinwire.controller.job_record import JobRecord


def expires_in_seconds(record: JobRecord, ttl_seconds: int | None, now_seconds: float) -> float | None:
    """Seconds that an ended job has left, at most 0 if its time is over; None if it stays."""
    if not record.state.ended or ttl_seconds is None:
        return None
    return record.completion_seconds + ttl_seconds - now_seconds
