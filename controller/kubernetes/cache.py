"""What an API server holds of one kind, kept current by list and watch.

One task per cache and namespace. It lists, then watches from that version on; bookmarks move the version along, so that
a watch that ends can go on where it was. A version that has expired (410) means a new list, silence for longer than the
read timeout or any other error a new watch after a growing pause. Readers see whole objects, as the server had them at
some moment of the last second or so; they never change one.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import structlog

from thinwire.controller.kubernetes.api import Api, ApiError
from thinwire.controller.kubernetes.resources import Raw, Resource, label_of, name_of, namespace_of

_SHORTEST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 15.0
_PAGE = "500"
_RELIST_SECONDS = 600.0

_log = structlog.get_logger(__name__)

Id = tuple[str, str]
Slim = Callable[[Raw], Raw]
Changed = Callable[[Raw], None]


def whole(raw: Raw) -> Raw:
    """Keep an object but for the record of who set which field."""
    raw["metadata"].pop("managedFields", None)
    return raw


@dataclass
class Cache:
    """Objects of one kind by namespace and name. `changed` hears of each that came, changed or went."""

    resource: Resource
    changed: Changed
    slim: Slim = whole
    index_label: str = ""
    _objects: dict[Id, Raw] = field(default_factory=dict)
    _by_label: dict[Id, dict[str, Raw]] = field(default_factory=dict)

    def get(self, namespace: str, name: str) -> Raw | None:
        """One object, if there is one."""
        return self._objects.get((namespace, name))

    def all(self) -> Iterator[Raw]:
        """Every object, in no order."""
        return iter(list(self._objects.values()))

    def labelled(self, namespace: str, value: str) -> Iterable[Raw]:
        """The objects of a namespace whose `index_label` has this value."""
        return list(self._by_label.get((namespace, value), {}).values())

    def put(self, raw: Raw) -> None:
        """Take in what the server has just said of an object, unless a newer word of it came already."""
        known = self._objects.get((namespace_of(raw), name_of(raw)))
        if known is None or _version(raw) > _version(known):
            self._put(self.slim(raw))

    def replace(self, namespace: str, items: Iterable[Raw]) -> None:
        """Take a list of one namespace (of all, if empty) for the whole truth, and tell of the differences."""
        fresh = {(namespace_of(raw), name_of(raw)): raw for raw in items}
        gone = [key for key in self._objects if namespace in ("", key[0]) and key not in fresh]
        for key in gone:
            self.drop(self._objects[key])
        for key, raw in fresh.items():
            known = self._objects.get(key)
            if known is None or _version(known) != _version(raw):
                self._put(self.slim(raw))

    def drop(self, raw: Raw) -> None:
        """Forget an object."""
        known = self._objects.pop((namespace_of(raw), name_of(raw)), None)
        if known is not None:
            self._unindex(known)
            self.changed(known)

    def _put(self, raw: Raw) -> None:
        key = (namespace_of(raw), name_of(raw))
        known = self._objects.get(key)
        if known is not None:
            self._unindex(known)
        self._objects[key] = raw
        if value := self._index_value(raw):
            self._by_label.setdefault((key[0], value), {})[key[1]] = raw
        self.changed(raw)

    def _unindex(self, raw: Raw) -> None:
        group = (namespace_of(raw), self._index_value(raw))
        if group in self._by_label:
            self._by_label[group].pop(name_of(raw), None)
            if not self._by_label[group]:
                del self._by_label[group]

    def _index_value(self, raw: Raw) -> str:
        return label_of(raw, self.index_label) if self.index_label else ""


class Reflector:
    """Keeps a cache current for one namespace, or for all (an empty name)."""

    def __init__(self, api: Api, cache: Cache, namespace: str = "", selector: str = "") -> None:
        self._api = api
        self._cache = cache
        self._namespace = namespace
        self._selector = selector
        self._version = ""
        self._pause_seconds = _SHORTEST_PAUSE_SECONDS
        self.synced = asyncio.Event()
        self.relists = 0

    @property
    def plural(self) -> str:
        """Which kind it follows."""
        return self._cache.resource.plural

    async def run(self) -> None:
        """List and watch until cancelled."""
        while True:
            try:
                await self._list()
                await self._watch_until_stale()
            except ApiError as error:
                await self._pause(error)

    async def _list(self) -> None:
        items: list[Raw] = []
        query = {"limit": _PAGE} | ({"labelSelector": self._selector} if self._selector else {})
        while True:
            page = await self._api.list(self._cache.resource, self._namespace, **query)
            items += page["items"]
            query["continue"] = page["metadata"].get("continue", "")
            if not query["continue"]:
                break
        self._cache.replace(self._namespace, items)
        self._version = page["metadata"]["resourceVersion"]
        self.relists += 1
        self.synced.set()

    async def _watch_until_stale(self) -> None:
        """Watch, again and again, until a list is due or the version has expired."""
        relist_at = time.monotonic() + _RELIST_SECONDS * random.uniform(0.9, 1.1)  # noqa: S311 - spreads load
        while time.monotonic() < relist_at:
            try:
                watching = self._api.watch(self._cache.resource, self._namespace, self._version, self._selector)
                async for event in watching:
                    self._take(event)
                    self._pause_seconds = _SHORTEST_PAUSE_SECONDS
            except ApiError as error:
                if error.expired:
                    _log.info("watch_expired", resource=self._cache.resource.plural)
                    return
                await self._pause(error)

    async def _pause(self, error: ApiError) -> None:
        _log.warning("watch_lost", resource=self._cache.resource.plural, status=error.status, reason=str(error))
        await asyncio.sleep(self._pause_seconds * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load
        self._pause_seconds = min(2 * self._pause_seconds, _LONGEST_PAUSE_SECONDS)

    def _take(self, event: Raw) -> None:
        raw = event["object"]
        self._version = raw["metadata"]["resourceVersion"]
        match event["type"]:
            case "ADDED" | "MODIFIED":
                self._cache.put(raw)
            case "DELETED":
                self._cache.drop(raw)


def _version(raw: Raw) -> int:
    """Age of an object in the API server's own order (a number in every release, by contract since 1.35)."""
    return int(raw["metadata"]["resourceVersion"])
