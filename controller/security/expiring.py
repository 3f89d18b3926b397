"""Answers that hold for a while: bounded, and asked for once however many wait for them. Used from one event loop."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Answer = TypeVar("Answer")


class ExpiringCache(Generic[Key, Answer]):
    """Keeps at most `most` answers; beyond that the one that was used longest ago goes. Errors are not kept."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._kept: OrderedDict[Key, tuple[float, Answer]] = OrderedDict()
        self._asked: dict[Key, asyncio.Task[Answer]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def last(self, key: Key) -> Answer | None:
        """The newest answer that is still remembered, even if it holds no longer."""
        kept = self._kept.get(key)
        return kept[1] if kept is not None else None

    def fresh(self, key: Key) -> bool:
        """Whether `get` would answer without asking."""
        return self._fresh(key) is not None

    async def get(self, key: Key, ask: Callable[[], Awaitable[Answer]], seconds: Callable[[Answer], float]) -> Answer:
        """The kept answer, or what `ask` says, which is then kept for `seconds` of it."""
        fresh = self._fresh(key)
        if fresh is not None:
            self._kept.move_to_end(key)
            return fresh[1]
        asked = self._asked.get(key)
        if asked is None:
            asked = asyncio.ensure_future(self._ask(key, ask, seconds))
            self._asked[key] = asked
        # One caller who hangs up must not take the answer from the others.
        return await asyncio.shield(asked)

    def _fresh(self, key: Key) -> tuple[float, Answer] | None:
        kept = self._kept.get(key)
        return kept if kept is not None and kept[0] > self._clock() else None

    async def _ask(self, key: Key, ask: Callable[[], Awaitable[Answer]], seconds: Callable[[Answer], float]) -> Answer:
        try:
            answer = await ask()
        finally:
            del self._asked[key]
        self._kept[key] = (self._clock() + seconds(answer), answer)
        self._kept.move_to_end(key)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return answer
