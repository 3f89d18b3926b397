"""Kubernetes timestamps and seconds since the epoch."""

from __future__ import annotations

from datetime import UTC, datetime


def seconds_of(time: str | None) -> float:
    """Seconds since the epoch of a timestamp; 0 without one."""
    return datetime.fromisoformat(time).timestamp() if time else 0.0


def timestamp(seconds: float) -> str:
    """A timestamp in whole seconds, as metav1.Time."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_timestamp(seconds: float) -> str:
    """A timestamp in microseconds, as metav1.MicroTime."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
