from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

from thinwire.controller.kubernetes.api import Api, ApiError
from thinwire.controller.kubernetes.cache import Cache, Reflector
from thinwire.controller.kubernetes.resources import PODS, Raw, Resource

LABEL = "job"
EXPIRED = ApiError(410, "Expired", "too old resource version")
AWAY = ApiError(0, "Unreachable", "no answer")


def pod(name: str, version: int, job: str = "a") -> Raw:
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
            "resourceVersion": str(version),
            "labels": {LABEL: job},
            "managedFields": [{}],
        }
    }


def event(kind: str, raw: Raw) -> Raw:
    return {"type": kind, "object": raw}


class Script:
    """An API server that answers lists and watches from a script, then nothing for ever."""

    def __init__(self, lists: list[list[Raw] | ApiError], watches: list[list[Raw | ApiError]]) -> None:
        self.lists, self.watches = lists, watches
        self.watched_from: list[str] = []

    async def list(self, resource: Resource, namespace: str = "", **query: str) -> Raw:
        if not self.lists:
            await asyncio.Event().wait()
        answer = self.lists[0]
        start = int(query.get("continue") or 0)
        if isinstance(answer, ApiError) or start + 1 >= len(answer):
            self.lists.pop(0)
        if isinstance(answer, ApiError):
            raise answer
        more = {"continue": str(start + 1)} if start + 1 < len(answer) else {}
        items = [{"metadata": dict(raw["metadata"])} for raw in answer[start : start + 1]]
        return {"metadata": {"resourceVersion": "100", **more}, "items": items}

    async def watch(self, resource: Resource, namespace: str, version: str, selector: str = "") -> AsyncIterator[Raw]:
        self.watched_from.append(version)
        if not self.watches:
            await asyncio.Event().wait()
        for step in self.watches.pop(0):
            if isinstance(step, ApiError):
                raise step
            yield step


def followed(script: Script, until: Callable[[Cache, list[str]], bool]) -> tuple[Cache, list[str], Reflector]:
    """Follow a script until something holds of the cache and of the names that changed."""
    names: list[str] = []
    cache = Cache(PODS, lambda raw: names.append(raw["metadata"]["name"]), index_label=LABEL)

    async def run() -> Reflector:
        reflector = Reflector(cast(Api, script), cache)
        task = asyncio.create_task(reflector.run())
        async with asyncio.timeout(30):
            while not until(cache, names):
                await asyncio.sleep(0.001)
        task.cancel()
        return reflector

    return cache, names, asyncio.run(cast(Callable[[], Awaitable[Any]], run)())  # type: ignore[arg-type]


def names_of(cache: Cache, job: str = "a") -> set[str]:
    return {raw["metadata"]["name"] for raw in cache.labelled("default", job)}


def test_a_list_of_many_pages_fills_the_cache():
    script = Script([[pod("x", 1), pod("y", 2), pod("z", 3, "b")]], [])
    cache, names, _ = followed(script, lambda cache, _: len(list(cache.all())) == 3)
    assert (names_of(cache), names_of(cache, "b")) == ({"x", "y"}, {"z"})
    assert names == ["x", "y", "z"]
    assert all("managedFields" not in raw["metadata"] for raw in cache.all())


def test_a_watch_goes_on_where_the_last_one_ended_bookmarks_counted():
    bookmark = event("BOOKMARK", {"metadata": {"resourceVersion": "140"}})
    script = Script([[pod("x", 1)]], [[event("ADDED", pod("y", 120)), bookmark], [AWAY], []])
    cache, _, reflector = followed(script, lambda *_: len(script.watched_from) >= 4)
    assert script.watched_from[:4] == ["100", "140", "140", "140"]
    assert names_of(cache) == {"x", "y"}
    assert reflector.relists == 1


def test_objects_change_move_between_labels_and_go():
    script = Script(
        [[pod("x", 1), pod("y", 2)]],
        [[event("MODIFIED", pod("x", 101, "b")), event("DELETED", pod("y", 102))]],
    )
    cache, _, _ = followed(script, lambda *_: len(script.watched_from) >= 2)
    assert (names_of(cache), names_of(cache, "b")) == (set(), {"x"})


def test_an_expired_version_is_listed_anew_and_what_went_meanwhile_is_told():
    script = Script([[pod("x", 1), pod("y", 2)], [pod("y", 2), pod("z", 3)]], [[EXPIRED], []])
    cache, names, reflector = followed(script, lambda cache, _: "z" in names_of(cache))
    assert names_of(cache) == {"y", "z"}
    assert names == ["x", "y", "x", "z"]
    assert reflector.relists == 2


def test_a_list_that_fails_is_tried_again():
    script = Script([AWAY, AWAY, [pod("x", 1)]], [])
    cache, _, _ = followed(script, lambda cache, _: bool(names_of(cache)))
    assert names_of(cache) == {"x"}


def test_an_older_word_of_an_object_never_replaces_a_newer_one():
    changed: list[str] = []
    cache = Cache(PODS, lambda raw: changed.append(raw["metadata"]["resourceVersion"]), index_label=LABEL)
    cache.put(pod("x", 7))
    cache.put(pod("x", 5))
    cache.put(pod("x", 7))
    assert changed == ["7"]
