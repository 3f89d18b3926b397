"""One replica works, the others wait: the client's own leader election on a Lease, with deadlines around every call.

Whoever loses the Lease ends its process: a new process begins with nothing in memory that is out of date.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import aiohttp
import structlog
from kubernetes.aio import client
from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection
from kubernetes.aio.leaderelection.leaderelectionrecord import LeaderElectionRecord
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock

LEASE_SECONDS = 15
RENEW_SECONDS = 10
RETRY_SECONDS = 2
_CALL_SECONDS = 4.0

_log = structlog.get_logger(__name__)


class LeaseLostError(Exception):
    """Another replica may lead by now; this process must end."""


class BoundedLease(LeaseLock):  # type: ignore[misc]  # the client has no types
    """The client's lock, whose calls end in time and fail softly: one that hangs must not outlast the Lease."""

    async def get(self, name: str, namespace: str) -> tuple[bool, Any]:
        """The record of the holder, or False and what went wrong."""
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                found: tuple[bool, Any] = await super().get(name, namespace)
                return found
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            return False, client.ApiException(status=0, reason=f"no answer: {error or type(error).__name__}")

    async def create(self, name: str, namespace: str, election_record: LeaderElectionRecord) -> bool:
        """Make the Lease; False if that failed."""
        return await self._bounded(self._created(name, namespace, election_record))

    async def update(self, name: str, namespace: str, election_record: LeaderElectionRecord) -> bool:
        """Take or renew the Lease; False if that failed."""
        return await self._bounded(super().update(name, namespace, election_record))

    async def _created(self, name: str, namespace: str, record: LeaderElectionRecord) -> bool:
        # The client's own create (37.0.2) passes pretty=True, which its generated call refuses: it wants a string.
        lease = client.V1Lease(metadata=client.V1ObjectMeta(name=name), spec=self.update_lease(record))
        try:
            await self.api_instance.create_namespaced_lease(namespace, lease)
        except client.ApiException as error:
            _log.warning("lease_call_failed", reason=error.reason)
            return False
        return True

    async def _bounded(self, call: Awaitable[bool]) -> bool:
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                return bool(await call)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            _log.warning("lease_call_failed", reason=str(error) or type(error).__name__)
            return False


async def lead(
    api_client: client.ApiClient,
    namespace: str,
    name: str,
    identity: str,
    work: Callable[[], Coroutine[Any, Any, None]],
) -> None:
    """Wait for the Lease, then do `work` for as long as it is held.

    Raises:
        LeaseLostError: it could not be renewed in time; `work` was cancelled.
        Exception: whatever `work` raised. It returns only if `work` does.
    """
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def leading() -> None:
        _log.info("lease_held", lease=f"{namespace}/{name}", identity=identity)
        try:
            await work()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(None)

    async def stopped() -> None:
        if not done.done():
            done.set_exception(LeaseLostError(f"Lease {namespace}/{name} was not renewed in {RENEW_SECONDS} s"))

    lock = BoundedLease(name, namespace, identity, api_client)
    election = LeaderElection(Config(lock, LEASE_SECONDS, RENEW_SECONDS, RETRY_SECONDS, leading, stopped))
    running = asyncio.create_task(election.run())
    try:
        await asyncio.wait({running, done}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        await done
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def give_up(api_client: client.ApiClient, namespace: str, name: str, identity: str) -> None:
    """Let another replica lead at once instead of after the Lease's end; best effort."""
    leases = client.CoordinationV1Api(api_client)
    try:
        async with asyncio.timeout(_CALL_SECONDS):
            lease = await leases.read_namespaced_lease(name, namespace)
            if lease.spec.holder_identity == identity:
                lease.spec.lease_duration_seconds = 1
                lease.spec.holder_identity = ""
                await leases.replace_namespaced_lease(name, namespace, lease)
    except (TimeoutError, client.ApiException, aiohttp.ClientError, OSError) as error:
        _log.warning("lease_not_given_up", reason=str(error) or type(error).__name__)
