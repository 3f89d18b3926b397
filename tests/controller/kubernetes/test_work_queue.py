from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from thinwire.controller.kubernetes.work_queue import WorkQueue


def inside(work: Callable[[WorkQueue[str]], Awaitable[None]]) -> None:
    async def run() -> None:
        await work(WorkQueue())

    asyncio.run(run())


def test_a_key_is_in_line_once():
    async def work(queue: WorkQueue[str]) -> None:
        for key in ("a", "b", "a"):
            queue.add(key)
        assert (await queue.get(), await queue.get(), len(queue)) == ("a", "b", 0)

    inside(work)


def test_a_key_in_hand_comes_back_after_its_work_and_not_before():
    async def work(queue: WorkQueue[str]) -> None:
        queue.add("a")
        assert await queue.get() == "a"
        queue.add("a")
        queue.add("a")
        assert len(queue) == 0
        queue.done("a")
        assert await queue.get() == "a"
        queue.done("a")
        assert len(queue) == 0

    inside(work)


def test_of_two_times_for_one_key_the_earlier_counts():
    async def work(queue: WorkQueue[str]) -> None:
        queue.add_after("a", 3600)
        queue.add_after("a", 0)
        queue.add_after("a", 7200)
        assert await asyncio.wait_for(queue.get(), 30) == "a"

    inside(work)


def test_a_key_taken_by_hand_takes_its_timer_with_it():
    async def work(queue: WorkQueue[str]) -> None:
        queue.add_after("a", 0.01)
        queue.add("a")
        assert await queue.get() == "a"
        queue.done("a")
        await asyncio.sleep(0.05)
        assert len(queue) == 0

    inside(work)


def test_pauses_grow_with_failures_in_a_row_up_to_a_minute_and_begin_anew_after_a_success():
    async def work(queue: WorkQueue[str]) -> None:
        assert [queue.add_failed("a") for _ in range(12)][:4] == [0.1, 0.2, 0.4, 0.8]
        assert queue.add_failed("a") == 60.0
        assert queue.add_failed("b") == 0.1
        queue.forget("a")
        assert queue.add_failed("a") == 0.1

    inside(work)
