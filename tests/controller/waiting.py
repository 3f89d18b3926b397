"""Waits for conditions with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def eventually(condition: Callable[[], Found], *, within_seconds: float = 120.0) -> Found:
    """The first truthy value of `condition`; fails the test if none comes in time."""
    deadline = time.monotonic() + within_seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"still {found!r} after {within_seconds} s"
        time.sleep(0.01)
    return found
