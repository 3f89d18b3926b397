from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.binaries import found
from tests.cluster.control_plane import ControlPlane, control_plane
from tests.cluster.jobs_api import JobsApi


@pytest.fixture(scope="session")
def plane() -> Iterator[ControlPlane]:
    """A real etcd and a real API server, for the whole session."""
    with control_plane(found()) as running:
        yield running


@pytest.fixture(scope="session")
def jobs(plane: ControlPlane) -> Iterator[JobsApi]:
    """DiffusionJobs on that API server, whose CRD is established."""
    with plane.api_client() as api_client:
        api = JobsApi(api_client)
        api.install_crd()
        yield api
