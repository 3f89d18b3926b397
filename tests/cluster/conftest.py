from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.binaries import found
from tests.cluster.control_plane import ControlPlane, control_plane
from tests.cluster.jobs_api import JobsApi
from tests.cluster.operating import make_surroundings
from tests.cluster.operator_process import OperatorProcess, operator_process


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


@pytest.fixture(scope="module")
def operator(plane: ControlPlane, jobs: JobsApi) -> Iterator[OperatorProcess]:
    """A controller of its own for every file of tests."""
    make_surroundings(jobs)
    with operator_process(plane, "--no-leader-elect") as running:
        yield running
