"""The release on a real cluster: it is well, its image is small and strict, and its rights end where they should."""

from __future__ import annotations

import json

import pytest

from tests.cluster.e2e.stage import STUDIO, SYSTEM, Stage
from tests.cluster.node.configuration import CONTROLLER, PLAIN
from tests.cluster.node.room import NodeError
from tests.controller.waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]


def in_the_controller(stage: Stage, program: str) -> str:
    where = ("--namespace", SYSTEM, "exec", "deployment/thinwire-controller", "--")
    return stage.cluster.kubectl(*where, "python", "-c", program).strip()


def allowed(stage: Stage, user: str, *question: str) -> bool:
    try:
        return stage.cluster.kubectl("auth", "can-i", *question, user=user).strip() == "yes"
    except NodeError:
        return False


def test_helm_test_finds_it_ready_and_serving_over_tls(stage: Stage) -> None:
    said = stage.cluster.helm("test", "thinwire", "--namespace", SYSTEM, "--timeout", "600s")
    assert "Phase:          Succeeded" in said


def test_the_controllers_image_has_no_torch(stage: Stage) -> None:
    program = "import importlib.util as u; print([m for m in ('torch', 'xfuser', 'diffusers') if u.find_spec(m)])"
    assert in_the_controller(stage, program) == "[]"


def test_it_runs_as_nobody_on_a_root_that_nobody_can_write_to(stage: Stage) -> None:
    assert in_the_controller(stage, "import os; print(os.getuid(), os.getgid())") == "65532 65532"
    with pytest.raises(NodeError, match="Read-only file system"):
        in_the_controller(stage, "open('/opt/code/x', 'w')")


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (("create", "jobs.batch", "--namespace", STUDIO), True),
        (("patch", "diffusionjobs.thinwire.dev", "--subresource=status", "--namespace", STUDIO), True),
        (("list", "events", "--namespace", STUDIO), True),
        (("list", "secrets", "--namespace", STUDIO), False),
        (("list", "secrets", "--namespace", SYSTEM), False),
        (("get", "secrets/another", "--namespace", SYSTEM), False),
        (("create", "pods", "--namespace", STUDIO), False),
        (("create", "diffusionjobs.thinwire.dev", "--namespace", STUDIO), False),
        (("create", "pods", "--subresource=exec", "--namespace", STUDIO), False),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_the_controllers_rights_are_what_it_needs(stage: Stage, question: tuple[str, ...], answer: bool) -> None:
    assert allowed(stage, CONTROLLER, *question) is answer


def test_a_person_without_rights_sees_nothing_until_the_clusters_own_role_gives_it(stage: Stage) -> None:
    assert not allowed(stage, PLAIN, "list", "diffusionjobs.thinwire.dev", "--namespace", STUDIO)
    stage.kubectl("create", "rolebinding", "looks", "--clusterrole=view", f"--user={PLAIN}")
    try:
        # The authorizer hears of a binding by a watch.
        eventually(lambda: allowed(stage, PLAIN, "list", "diffusionjobs.thinwire.dev", "--namespace", STUDIO))
        assert not allowed(stage, PLAIN, "create", "diffusionjobs.thinwire.dev", "--namespace", STUDIO)
    finally:
        stage.kubectl("delete", "rolebinding", "looks")


def test_another_upgrade_changes_neither_the_definition_nor_the_certificate(stage: Stage) -> None:
    def kept() -> tuple[str, str]:
        definition = stage.cluster.kubectl("get", "crd", "diffusionjobs.thinwire.dev", "-o", "jsonpath={.metadata.uid}")
        secret = stage.cluster.kubectl("-n", SYSTEM, "get", "secret", "thinwire-controller-tls", "-o", "json")
        return definition, json.dumps(json.loads(secret)["data"])

    before = kept()
    stage.release("controller.podAnnotations.again=yes")
    stage.roll_back()
    assert kept() == before
