from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.e2e.stage import STUDIO, Stage
from tests.cluster.node import images
from tests.cluster.node.cluster import Cluster, cluster


@pytest.fixture(scope="session")
def node() -> Iterator[Cluster]:
    """A whole real cluster of one node, with the images of this checkout, for the whole session."""
    with cluster() as running:
        for image in images.DOCKERFILES:
            images.load(running.containerd, image)
        yield running


@pytest.fixture(scope="session")
def stage(node: Cluster) -> Stage:
    """That cluster with thinwire installed by its chart, and a namespace for jobs where Pod Security is strict."""
    node.kubectl("create", "namespace", STUDIO)
    node.kubectl("label", "namespace", STUDIO, "pod-security.kubernetes.io/enforce=restricted")
    made = Stage(node)
    made.release()
    return made
