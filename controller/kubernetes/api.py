"""The API server, over the official client's asyncio half: its configuration and connections, raw objects, one error.

Every request has a deadline of its own: a connection that is half open must end in an error, never in a wait.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from kubernetes.aio import client, config

from thinwire.controller.kubernetes.resources import Raw, Resource

FIELD_MANAGER = "thinwire-controller"
WATCH_SECONDS = 60
"""After this long the server itself ends a watch, which goes on with another where it was."""
READ_TIMEOUT_SECONDS = 70.0
"""Silence on a watch that means a dead connection."""

_REQUEST_SECONDS = 30.0
_CONNECT_SECONDS = 10.0
_CONNECTIONS = 64
_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
_GONE = 410
_NOT_FOUND = 404


class ApiError(Exception):
    """The API server refused a request, or could not be reached (status 0); the message is its own sentence."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message or reason)
        self.status = status
        self.reason = reason

    @property
    def expired(self) -> bool:
        """Whether a list or watch has to begin anew."""
        return self.status == _GONE or self.reason == "Expired"

    @property
    def final(self) -> bool:
        """Whether the same request can never succeed: the object itself is at fault."""
        # Server-side apply answers a field that its schema has not with 500.
        return self.status in (400, 413, 422) or "failed to create typed patch object" in str(self)

    @property
    def refused(self) -> bool:
        """Whether the server understood and said no: what it lacks is a right or a quota."""
        return self.status in (401, 403)


class Api:
    """Plain verbs on raw objects. Belongs to the event loop that made it."""

    def __init__(self, api_client: client.ApiClient) -> None:
        self.client = api_client

    @classmethod
    async def connect(cls) -> Api:
        """With the pod's own account inside a cluster, else as KUBECONFIG says; raises ConfigException."""
        configuration = client.Configuration()
        try:
            config.load_incluster_config(configuration)
        except config.ConfigException:
            await config.load_kube_config(client_configuration=configuration)
        configuration.connection_pool_maxsize = _CONNECTIONS
        # Looked up once: for every request aiohttp would ask two threads, for a proxy and for a password in ~/.netrc.
        configuration.proxy = configuration.proxy or _proxy_for(configuration.host)
        configuration.client_session_kwargs = {"trust_env": False}
        return cls(client.ApiClient(configuration))

    async def close(self) -> None:
        """Give back the connections."""
        await self.client.close()

    async def find(self, resource: Resource, namespace: str, name: str) -> Raw | None:
        """One object, or None where there is none; raises ApiError."""
        try:
            return await self._call("GET", resource.path(namespace, name))
        except ApiError as error:
            if error.status == _NOT_FOUND:
                return None
            raise

    async def preferred_version(self, group: str) -> str | None:
        """The version of an API group that the server prefers, or None if it has no such group; raises ApiError."""
        try:
            found = await self._call("GET", f"/apis/{group}")
        except ApiError as error:
            if error.status == _NOT_FOUND:
                return None
            raise
        return str(found["preferredVersion"]["version"])

    async def list(self, resource: Resource, namespace: str = "", **query: str) -> Raw:
        """A whole collection; raises ApiError."""
        return await self._call("GET", resource.path(namespace), query)

    async def create(self, resource: Resource, body: Raw) -> Raw:
        """A new object; raises ApiError."""
        query = {"fieldManager": FIELD_MANAGER}
        return await self._call("POST", resource.path(body["metadata"]["namespace"]), query, body)

    async def apply(self, resource: Resource, body: Raw) -> Raw:
        """Server-side apply under the controller's field manager; raises ApiError."""
        path = resource.path(body["metadata"]["namespace"], body["metadata"]["name"])
        query = {"fieldManager": FIELD_MANAGER, "force": "true", "fieldValidation": "Strict"}
        return await self._call("PATCH", path, query, body, _APPLY)

    async def patch(self, resource: Resource, namespace: str, name: str, body: Raw, subresource: str = "") -> Raw:
        """JSON merge patch; raises ApiError."""
        path = resource.path(namespace, name, subresource)
        return await self._call("PATCH", path, {"fieldManager": FIELD_MANAGER}, body, _MERGE)

    async def delete(self, resource: Resource, namespace: str, name: str, *, uid: str, propagation: str) -> None:
        """Delete this very object; one that is gone, or another of its name, is left alone. Raises ApiError."""
        body = {"preconditions": {"uid": uid}, "propagationPolicy": propagation}
        try:
            await self._call("DELETE", resource.path(namespace, name), {}, body)
        except ApiError as error:
            if error.status not in (_NOT_FOUND, 409):
                raise

    async def watch(self, resource: Resource, namespace: str, version: str, selector: str = "") -> AsyncIterator[Raw]:
        """Events since `version`, bookmarks among them, until the server ends the watch; raises ApiError."""
        query = {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": version}
        query["timeoutSeconds"] = str(WATCH_SECONDS)
        if selector:
            query["labelSelector"] = selector
        timeout = aiohttp.ClientTimeout(sock_connect=_CONNECT_SECONDS, sock_read=READ_TIMEOUT_SECONDS)
        try:
            response = await self._open("GET", resource.path(namespace), query, None, "application/json", timeout)
            async with response:
                if response.status != 200:
                    raise _refusal(response.status, await response.read())
                async for line in response.content:
                    event: Raw = json.loads(line)
                    if event["type"] == "ERROR":
                        status = event["object"]
                        raise ApiError(status.get("code", 0), status.get("reason", ""), status.get("message", ""))
                    yield event
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise _unreachable(error) from error

    async def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Raw:
        timeout = aiohttp.ClientTimeout(total=_REQUEST_SECONDS, sock_connect=_CONNECT_SECONDS)
        try:
            response = await self._open(method, path, query or {}, body, content_type, timeout)
            async with response:
                data = await response.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise _unreachable(error) from error
        if not 200 <= response.status < 300:
            raise _refusal(response.status, data)
        answer: Raw = json.loads(data)
        return answer

    async def _open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Any,
        content_type: str,
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        configuration = self.client.configuration
        headers = {"Accept": "application/json", "Content-Type": content_type, "User-Agent": FIELD_MANAGER}
        for setting in (await configuration.auth_settings()).values():
            headers[setting["key"]] = setting["value"]
        url = f"{configuration.host}{path}{'?' if query else ''}{urlencode(query)}"
        answer = await self.client.rest_client.request(
            method, url, headers=headers, body=body, _request_timeout=timeout
        )
        response: aiohttp.ClientResponse = answer.response
        return response


def _proxy_for(url: str) -> str | None:
    """What the environment (HTTPS_PROXY, NO_PROXY) names for this address."""
    parts = urlsplit(url)
    if proxy_bypass(parts.netloc):
        return None
    return getproxies().get(parts.scheme)


def _unreachable(error: Exception) -> ApiError:
    what = str(error) or type(error).__name__
    return ApiError(0, "Unreachable", f"the API server cannot be reached: {what}")


def _refusal(status: int, data: bytes) -> ApiError:
    try:
        said = json.loads(data)
        return ApiError(status, said.get("reason", ""), said.get("message", ""))
    except (ValueError, AttributeError):
        return ApiError(status, "", data[:500].decode("utf-8", errors="replace"))
