"""Keys that want work, each at most once in line and never in two hands at once.

A key that is added while it is worked on comes back when that work is done. Failures come back after a pause that grows
with every one in a row, and `forget` sets it back. All from one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Generic, TypeVar

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 60.0

Key = TypeVar("Key")


class WorkQueue(Generic[Key]):
    """First in, first out; delayed keys join the line when their time has come."""

    def __init__(self) -> None:
        self._line: deque[Key] = deque()
        self._waiting: dict[Key, float] = {}
        self._waited: dict[Key, float] = {}
        self._in_hand: set[Key] = set()
        self._again: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._line)

    def add(self, key: Key) -> None:
        """Put a key in line, if it is not there yet."""
        if key in self._in_hand:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting[key] = time.monotonic()
            self._line.append(key)
            self._filled.set()

    def add_after(self, key: Key, seconds: float) -> None:
        """Add a key later; of two times for one key the earlier counts."""
        loop = asyncio.get_running_loop()
        due = loop.time() + max(seconds, 0.0)
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= due:
                return
            timer.cancel()
        self._timers[key] = loop.call_at(due, self._due, key)

    def add_failed(self, key: Key) -> float:
        """Add a key whose work failed, after a pause that grows; returns the pause in seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        pause = min(_FIRST_PAUSE_SECONDS * 2.0 ** min(failures, 16), _LONGEST_PAUSE_SECONDS)
        self.add_after(key, pause)
        return pause

    def forget(self, key: Key) -> None:
        """The key's work went well: the next failure is the first again."""
        self._failures.pop(key, None)

    async def get(self) -> Key:
        """Take the first key in hand; `done` gives it back."""
        while not self._line:
            self._filled.clear()
            await self._filled.wait()
        key = self._line.popleft()
        self._waited[key] = time.monotonic() - self._waiting.pop(key)
        self._in_hand.add(key)
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        return key

    def waited_seconds(self, key: Key) -> float:
        """How long a key in hand had been in line."""
        return self._waited[key]

    def done(self, key: Key) -> None:
        """Let go of a key; what was added meanwhile joins the line."""
        self._in_hand.discard(key)
        self._waited.pop(key, None)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def _due(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.add(key)
