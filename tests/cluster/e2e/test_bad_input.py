"""What only the cluster can know, on the real one: no job waits or fails without saying for what, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True)
class Case:
    """What a job asks for that it cannot have, and what is said of that."""

    name: str
    changes: dict[str, Any]
    reasons: set[str]
    cause: str
    remedy: str


CASES = [
    Case(
        "no-image",
        {"podTemplate": pulling(NOBODYS_IMAGE)},
        {"ErrImagePull", "ImagePullBackOff"},
        NOBODYS_IMAGE,
        "check the image's name and imagePullSecrets",
    ),
    Case(
        "no-gpu",
        {"accelerator": "nvidia.com/gpu"},
        {"Unschedulable"},
        "Insufficient nvidia.com/gpu",
        "add such a node, free one, or ask for less",
    ),
    Case(
        "no-secret",
        {"model": {"source": {"huggingFace": {"repo": "a/b", "tokenSecretRef": {"name": "none", "key": "token"}}}}},
        {"CreateContainerConfigError"},
        'secret "none" not found',
        "create what it names; the pod goes on by itself",
    ),
]


@pytest.fixture(scope="module", autouse=True)
def gangs(stage: Stage, folder: Path, undisturbed: Job) -> dict[str, Job]:
    """Every job of this file, begun at once: most of them wait, and one that nothing happens to makes its pictures."""
    del undisturbed
    broken = stage.claim("broken-model")
    (broken / "model").mkdir()
    (broken / "model" / "model_index.json").write_text("{ this is no JSON")
    source = {"persistentVolumeClaim": {"claimName": "broken-model", "path": "model"}}
    made = {"broken-model": submitted(stage, "broken-model", model={"source": source})}
    return made | {case.name: submitted(stage, case.name, **case.changes) for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_gang_that_cannot_start_says_why(gangs: dict[str, Job], case: Case) -> None:
    running = gangs[case.name]

    def explained(sentence: str) -> bool:
        return case.cause in sentence and case.remedy in sentence

    eventually(lambda: running.condition("PodsReady")["reason"] in case.reasons, within_seconds=300)
    eventually(lambda: explained(running.condition("PodsReady")["message"]), within_seconds=300)
    eventually(lambda: case.remedy in running.status().get("message", ""), within_seconds=300)
    eventually(lambda: any(explained(note) for note in notes(running, case.reasons)))
    running.delete()
    eventually(lambda: not running.children())


def test_a_model_that_cannot_be_loaded_ends_the_job_with_the_ranks_own_sentence(gangs: dict[str, Job]) -> None:
    running = gangs["broken-model"]
    ended = running.await_state("Failed")
    assert running.condition("Failed")["reason"] == "BadInput"
    assert running.condition("Failed")["message"] == ended["message"]
    assert "expected a model folder in diffusers' format with model_index.json, got Expecting" in ended["message"]
    assert ended["message"].endswith("check the path")
    assert (ended["attempt"], ended.get("restarts", 0)) == (1, 0)
    eventually(lambda: any(ended["message"] in note for note in notes(running, {"Failed"})))
    running.delete()
    eventually(lambda: not running.children())


def test_the_controller_has_outlived_all_of_it(stage: Stage, controller_before: list[tuple[str, int]]) -> None:
    assert lives(stage) == controller_before
