"""A controller's gRPC server on a real API server, with the rights of its own account and no more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from kubernetes.aio import client

from tests.cluster.control_plane import ControlPlane
from tests.cluster.jobs_api import JobsApi
from tests.cluster.people import People
from tests.controller.serving import Served, served
from thinwire.controller.job_record import JobRecord
from thinwire.controller.security.open import AUTHORITY_CONFIG_MAP, Security, open_security

HOME = "thinwire-security"
SECRET = "thinwire-controller-tls"
JOBS = {"apiGroups": ["thinwire.dev"], "resources": ["diffusionjobs"]}
CONTROLLER_RULES = [
    {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
    {"apiGroups": ["authorization.k8s.io"], "resources": ["subjectaccessreviews"], "verbs": ["create"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
]
OWN_RULES = [
    {"apiGroups": [""], "resources": ["secrets", "configmaps"], "verbs": ["create"]},
    {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [SECRET], "verbs": ["get", "update"]},
    {
        "apiGroups": [""],
        "resources": ["configmaps"],
        "resourceNames": [AUTHORITY_CONFIG_MAP],
        "verbs": ["get", "update"],
    },
]


def settled(jobs: JobsApi) -> People:
    """Namespaces, the controller's account and its rights."""
    people = People(jobs)
    for namespace in (HOME, "default", "other"):
        people.namespace(namespace)
        people.account(namespace, "default")
    people.account(HOME, "thinwire-controller")
    people.may(HOME, "thinwire-controller", CONTROLLER_RULES, everywhere=True)
    people.may(HOME, "thinwire-controller", OWN_RULES)
    return people


@contextlib.contextmanager
def secured(plane: ControlPlane, people: People, *records: JobRecord) -> Iterator[Served]:
    """A controller with the rights of its own account, and no more."""
    token = people.token(HOME, "thinwire-controller")
    clients: list[client.ApiClient] = []

    async def opening() -> Security:
        configuration = client.Configuration()
        configuration.host = plane.url
        configuration.ssl_ca_cert = str(plane.certificate)
        configuration.api_key = {"BearerToken": f"Bearer {token}"}
        configuration.no_proxy = "127.0.0.1"
        clients.append(client.ApiClient(configuration))
        return await open_security(clients[0], own_namespace=HOME, tls_secret=SECRET)

    with served(*records, opening=opening) as running:
        yield running
        asyncio.run_coroutine_threadsafe(clients[0].close(), running.loop).result(30)
