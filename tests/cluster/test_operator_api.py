"""The controller's client on a real API server: what it answers in the corners that a fake would only guess at."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
from kubernetes.aio import client

from tests.cluster.control_plane import ControlPlane
from tests.cluster.jobs_api import JobsApi
from tests.cluster.operating import make_surroundings
from thinwire.controller.kubernetes.api import Api, ApiError
from thinwire.controller.kubernetes.resources import CONFIG_MAPS, EVENTS, Raw

pytestmark = pytest.mark.cluster

Result = TypeVar("Result")


def with_api(plane: ControlPlane, work: Callable[[Api], Awaitable[Result]]) -> Result:
    async def run() -> Result:
        configuration = client.Configuration()
        configuration.host, configuration.ssl_ca_cert = plane.url, str(plane.certificate)
        configuration.api_key = {"authorization": f"Bearer {plane.token}"}
        configuration.no_proxy = "127.0.0.1"
        api = Api(client.ApiClient(configuration))
        try:
            return await work(api)
        finally:
            await api.close()

    return asyncio.run(run())


def config_map(name: str, **data: str) -> Raw:
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def test_applying_twice_changes_nothing_and_a_deleted_object_may_be_deleted_again(
    plane: ControlPlane, jobs: JobsApi
) -> None:
    make_surroundings(jobs)

    async def work(api: Api) -> None:
        first = await api.apply(CONFIG_MAPS, config_map("applied", a="1"))
        again = await api.apply(CONFIG_MAPS, config_map("applied", a="1"))
        assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
        uid = first["metadata"]["uid"]
        other = "00000000-0000-4000-8000-000000000000"
        await api.delete(CONFIG_MAPS, "default", "applied", uid=other, propagation="Background")
        assert await api.find(CONFIG_MAPS, "default", "applied") is not None
        for _ in range(2):
            await api.delete(CONFIG_MAPS, "default", "applied", uid=uid, propagation="Background")
        assert await api.find(CONFIG_MAPS, "default", "applied") is None

    with_api(plane, work)


def test_what_the_server_refuses_is_its_own_sentence(plane: ControlPlane, jobs: JobsApi) -> None:
    del jobs

    async def work(api: Api) -> tuple[ApiError, ApiError]:
        with pytest.raises(ApiError) as unknown:
            await api.apply(CONFIG_MAPS, config_map("refused") | {"dataa": {}})
        with pytest.raises(ApiError) as invalid:
            await api.create(EVENTS, {"metadata": {"name": "Not A Name", "namespace": "default"}})
        return unknown.value, invalid.value

    unknown, invalid = with_api(plane, work)
    assert unknown.final
    assert "dataa: field not declared in schema" in str(unknown)
    assert (invalid.status, invalid.final) == (422, True)


def test_a_server_that_is_not_there_is_an_error_in_time(plane: ControlPlane) -> None:
    async def work(api: Api) -> ApiError:
        api.client.configuration.host = "https://127.0.0.1:1"
        with pytest.raises(ApiError) as caught:
            await api.list(CONFIG_MAPS)
        return caught.value

    away = with_api(plane, work)
    assert (away.status, away.final, away.expired, away.refused) == (0, False, False, False)
    assert "cannot be reached" in str(away)
