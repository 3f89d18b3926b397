from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.e2e.manifests import FIXED, SHORT_STEPS, job
from tests.cluster.e2e.stage import STUDIO, Job, Stage
from tests.cluster.node import images, volumes
from tests.cluster.node.cluster import Cluster, cluster


@pytest.fixture(scope="session")
def node() -> Iterator[Cluster]:
    """A whole real cluster of one node, with the images of this checkout, for the whole session."""
    with cluster() as running:
        images.load(running.containerd)
        volumes.furnish(running)
        yield running


@pytest.fixture(scope="session")
def stage(node: Cluster) -> Stage:
    """That cluster with thinwire installed by its chart, and a namespace for jobs where Pod Security is strict."""
    node.kubectl("create", "namespace", STUDIO)
    node.kubectl("label", "namespace", STUDIO, "pod-security.kubernetes.io/enforce=restricted")
    made = Stage(node)
    made.release()
    return made


@pytest.fixture(scope="session")
def undisturbed(stage: Stage) -> Job:
    """A job that nothing happens to. It has only begun: whoever asks for it early can do something else meanwhile."""
    name = "undisturbed"
    stage.claim(name)
    return stage.submit(job(name, name, prompts=18, steps=SHORT_STEPS, compression=FIXED))
