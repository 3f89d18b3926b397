"""What only the cluster can know, on the real one: no job waits or fails without saying for what, and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cluster.e2e.manifests import FIXED, job
from tests.cluster.e2e.stage import Job, Stage
from tests.controller.waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

NOBODYS_IMAGE = "127.0.0.1:1/nobody/has:it"


@pytest.fixture(scope="module")
def folder(stage: Stage) -> Path:
    return stage.claim("bad-input")


@pytest.fixture(scope="module", autouse=True)
def controller_before(stage: Stage) -> list[tuple[str, int]]:
    return lives(stage)


def lives(stage: Stage) -> list[tuple[str, int]]:
    """The controller's pods, and how often each was started again."""
    return [
        (pod["metadata"]["name"], one["restartCount"])
        for pod in stage.controller_pods()
        for one in pod["status"]["containerStatuses"]
    ]


def submitted(stage: Stage, name: str, **changes: Any) -> Job:
    made = job(name, "bad-input", prompts=1, steps=2, compression=FIXED, maxRestarts=3)
    made["spec"] |= changes
    return stage.submit(made)


def pulling(image: str) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "rank", "image": image, "imagePullPolicy": "IfNotPresent"}]}}


def notes(running: Job, reasons: set[str]) -> list[str]:
    """What its events with one of these reasons say."""
    events = running.stage.items("events.events.k8s.io")
    return [one["note"] for one in events if one["regarding"]["name"] == running.name and one["reason"] in reasons]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("name", "changes", "reasons", "cause", "remedy"),
    [
        (
            "no-image",
            {"podTemplate": pulling(NOBODYS_IMAGE)},
            {"ErrImagePull", "ImagePullBackOff"},
            NOBODYS_IMAGE,
            "check the image's name and imagePullSecrets",
        ),
        (
            "no-gpu",
            {"accelerator": "nvidia.com/gpu"},
            {"Unschedulable"},
            "Insufficient nvidia.com/gpu",
            "add such a node, free one, or ask for less",
        ),
        (
            "no-secret",
            {"model": {"source": {"huggingFace": {"repo": "a/b", "tokenSecretRef": {"name": "none", "key": "token"}}}}},
            {"CreateContainerConfigError"},
            'secret "none" not found',
            "create what it names; the pod goes on by itself",
        ),
    ],
)
def test_a_gang_that_cannot_start_says_why(
    stage: Stage, name: str, changes: dict[str, Any], reasons: set[str], cause: str, remedy: str
) -> None:
    running = submitted(stage, name, **changes)
    eventually(lambda: running.condition("PodsReady")["reason"] in reasons, within_seconds=300)
    eventually(lambda: remedy in running.status().get("message", ""), within_seconds=300)
    eventually(lambda: any(cause in note and remedy in note for note in notes(running, reasons)))
    running.delete()
    eventually(lambda: not running.children())


def test_a_model_that_cannot_be_loaded_ends_the_job_with_the_ranks_own_sentence(stage: Stage, folder: Path) -> None:
    broken = stage.claim("broken-model")
    (broken / "model").mkdir()
    (broken / "model" / "model_index.json").write_text("{ this is no JSON")
    source = {"persistentVolumeClaim": {"claimName": "broken-model", "path": "model"}}
    running = submitted(stage, "broken-model", model={"source": source})
    ended = running.await_state("Failed")
    assert running.condition("Failed")["reason"] == "BadInput"
    assert "model_index.json" in ended["message"]
    assert "expected" in ended["message"]
    assert (ended["attempt"], ended.get("restarts", 0)) == (1, 0)
    eventually(lambda: any("model_index.json" in note for note in notes(running, {"Failed"})))
    running.delete()
    eventually(lambda: not running.children())


def test_the_controller_has_outlived_all_of_it(stage: Stage, controller_before: list[tuple[str, int]]) -> None:
    assert lives(stage) == controller_before
