"""The jobs that a controller knows, and who waits for news of them. Used from one event loop only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from thinwire.controller.job_record import JobKey, JobRecord


class JobStore:
    """Holds one snapshot per job and wakes watchers when it is replaced."""

    def __init__(self, heard: Callable[[JobRecord | None, JobRecord], None] = lambda before, after: None) -> None:
        """`heard` is called with every snapshot that is put, and the one before it."""
        self._heard = heard
        self._records: dict[JobKey, JobRecord] = {}
        self._changed: dict[JobKey, asyncio.Event] = {}

    def put(self, record: JobRecord) -> None:
        """Add a job, or replace its snapshot."""
        before = self._records.get(record.key)
        self._records[record.key] = record
        self._changed.pop(record.key, asyncio.Event()).set()
        self._heard(before, record)

    def remove(self, key: JobKey) -> None:
        """Forget a job; who watches it hears that it is gone."""
        self._records.pop(key, None)
        self._changed.pop(key, asyncio.Event()).set()

    def get(self, key: JobKey) -> JobRecord | None:
        """The newest snapshot, or None for a job that is not known."""
        return self._records.get(key)

    def update(self, key: JobKey, change: Callable[[JobRecord], JobRecord]) -> JobRecord:
        """Replace a known job's snapshot by `change` of it; raises KeyError."""
        before = self._records[key]
        after = change(before)
        if after is not before:
            self.put(after)
        return after

    def all(self, namespace: str = "") -> list[JobRecord]:
        """The snapshots of one namespace, or of all, by name."""
        return [self._records[key] for key in sorted(self._records) if namespace in ("", key.namespace)]

    async def watch(self, key: JobKey) -> AsyncIterator[JobRecord]:
        """The job as it is, then again after every change; snapshots that were replaced meanwhile are left out."""
        while (record := self._records.get(key)) is not None:
            changed = self._changed.setdefault(key, asyncio.Event())
            yield record
            await changed.wait()
