"""What only the controller can know: each is said by a condition and an event, and a job goes on when it comes."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.cluster.gangs import BATCH, CORE, complete_gang, found, gang, make_pods, run_pods
from tests.cluster.jobs_api import JobsApi
from tests.cluster.operating import (
    await_explained,
    await_state,
    await_told,
    condition,
    make_claim,
    notes,
    status,
    submit,
)
from tests.cluster.operator_process import OperatorProcess
from tests.controller.manifest.manifests import REMOVED
from tests.controller.waiting import eventually

pytestmark = pytest.mark.cluster

KUEUE = "kueue.x-k8s.io"
PROMPTS = {
    "spec.generation.prompts": REMOVED,
    "spec.generation.promptsFrom": {"configMap": {"name": "words"}},
}


def test_a_missing_claim_is_waited_for_aloud(operator: OperatorProcess, jobs: JobsApi) -> None:
    submit(jobs, "claimless", {"spec.output": {"persistentVolumeClaim": {"claimName": "not-yet"}}})
    waiting = await_state(jobs, "claimless", "Pending")
    assert waiting["message"] == (
        "spec.output.persistentVolumeClaim: expected PersistentVolumeClaim not-yet in namespace default, got none; "
        "create it: the job begins by itself then"
    )
    await_explained(jobs, "claimless", "Running", "ClaimMissing", waiting["message"])
    assert found(jobs, f"{BATCH}/claimless-1") is None
    make_claim(jobs, "not-yet")
    gang(jobs, "claimless-1")
    assert await_state(jobs, "claimless", "Starting")["attempt"] == 1


def test_a_missing_claim_of_the_model_is_waited_for_aloud(operator: OperatorProcess, jobs: JobsApi) -> None:
    source = {"persistentVolumeClaim": {"claimName": "no-model", "path": "model"}}
    submit(jobs, "modelless", {"spec.model.source": source})
    said = (
        "spec.model.source.persistentVolumeClaim: expected PersistentVolumeClaim no-model in namespace default, "
        "got none; create it: the job begins by itself then"
    )
    await_explained(jobs, "modelless", "Running", "ClaimMissing", said)
    assert found(jobs, f"{BATCH}/modelless-1") is None


def test_prompts_come_from_a_config_map(operator: OperatorProcess, jobs: JobsApi) -> None:
    submit(jobs, "wordless", PROMPTS)
    waiting = await_state(jobs, "wordless", "Pending")
    assert waiting["message"] == (
        "spec.generation.promptsFrom.configMap: expected ConfigMap words in namespace default, got none; "
        "create it: the job begins by itself then"
    )
    await_explained(jobs, "wordless", "Running", "PromptsMissing", waiting["message"])
    assert found(jobs, f"{BATCH}/wordless-1") is None
    config_map = {"metadata": {"name": "words"}, "data": {"other.yaml": ""}}
    jobs.call("POST", f"{CORE}/configmaps", config_map)
    no_key = "expected key prompts.yaml in ConfigMap words, got other.yaml; add it, or name one of them"
    await_explained(jobs, "wordless", "Running", "PromptsKeyMissing", no_key)
    for text, said in (
        ("- {name: ROCKET, prompt: a rocket}", 'got "ROCKET"; rename it'),
        ("- {name: a, prompt: b}\n- {name: a, prompt: c}", "generation.prompts"),
        ("rocket: a rocket", "expected a list"),
        ("- [", "expected YAML"),
    ):
        jobs.call("PATCH", f"{CORE}/configmaps/words", {"data": {"prompts.yaml": text}})
        # A word about the job has it looked at now; the last text is found by the look that comes by itself.
        jobs.patch("wordless", {"metadata": {"annotations": {"said": said}}})
        eventually(lambda said=said: said in status(jobs, "wordless").get("message", ""))  # type: ignore[misc]
        assert condition(jobs, "wordless", "Running")["reason"] == "PromptsInvalid"
    await_explained(jobs, "wordless", "Running", "PromptsInvalid", "ConfigMap words, key prompts.yaml: ")
    text = "- {name: rocket, prompt: a rocket, seed: 3}\n- {name: pizza, prompt: a pizza}\n"
    jobs.call("PATCH", f"{CORE}/configmaps/words", {"data": {"prompts.yaml": text}})
    gang(jobs, "wordless-1")
    config = found(jobs, f"{CORE}/configmaps/wordless-1")
    assert config is not None
    prompts = json.loads(config["data"]["run_spec.json"])["generation"]["prompts"]
    assert [(one["name"], one.get("seed")) for one in prompts] == [("rocket", "3"), ("pizza", None)]


def test_a_queue_without_kueue_is_said(operator: OperatorProcess, jobs: JobsApi) -> None:
    submit(jobs, "queued", {"metadata.labels": {"kueue.x-k8s.io/queue-name": "main"}})
    said = "expected a cluster with Kueue, got one without; install Kueue, or remove the label in a new job"
    assert said in await_state(jobs, "queued", "Pending")["message"]
    await_explained(jobs, "queued", "Running", "QueueMissing", said)


@pytest.fixture
def local_queues(jobs: JobsApi) -> Iterator[str]:
    """Kueue's kind LocalQueue, without Kueue behind it; where its objects are."""
    definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    name, path = f"localqueues.{KUEUE}", f"/apis/{KUEUE}/v1beta1/namespaces/default/localqueues"
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    spec = {
        "group": KUEUE,
        "scope": "Namespaced",
        "names": {"plural": "localqueues", "singular": "localqueue", "kind": "LocalQueue"},
        "versions": [{"name": "v1beta1", "served": True, "storage": True, "schema": schema}],
    }
    jobs.call("POST", definitions, {"metadata": {"name": name}, "spec": spec})
    eventually(lambda: serves(jobs, path))
    yield path
    jobs.call("DELETE", f"{definitions}/{name}")
    eventually(lambda: not serves(jobs, path))


def serves(jobs: JobsApi, path: str) -> bool:
    try:
        return found(jobs, path) is not None
    except json.JSONDecodeError:
        # A path that the server knows nothing of is answered in plain words.
        return False


def test_a_gang_waits_for_its_queue_and_then_for_its_admission(
    operator: OperatorProcess, jobs: JobsApi, local_queues: str
) -> None:
    submit(jobs, "lined-up", {"metadata.labels": {f"{KUEUE}/queue-name": "main"}})
    no_queue = "expected LocalQueue main in namespace default, got none; create it: the job begins by itself then"
    eventually(lambda: no_queue in status(jobs, "lined-up").get("message", ""))
    await_explained(jobs, "lined-up", "Running", "QueueMissing", no_queue)
    queue = {"apiVersion": f"{KUEUE}/v1beta1", "kind": "LocalQueue", "metadata": {"name": "main"}}
    jobs.call("POST", local_queues, queue)
    job = gang(jobs, "lined-up-1")
    assert job["spec"]["suspend"]
    assert job["metadata"]["labels"][f"{KUEUE}/queue-name"] == "main"
    eventually(lambda: condition(jobs, "lined-up", "Running")["reason"] == "AwaitingAdmission")
    assert "queue main has not admitted Job lined-up-1" in condition(jobs, "lined-up", "PodsReady")["message"]
    eventually(lambda: "queue main has not admitted Job lined-up-1" in status(jobs, "lined-up").get("message", ""))
    await_told(jobs, "lined-up", "AwaitingAdmission")
    # What Kueue does to a gang that it admits.
    jobs.call("PATCH", f"{BATCH}/lined-up-1", {"spec": {"suspend": False}})
    run_pods(jobs, make_pods(jobs, job))
    eventually(lambda: condition(jobs, "lined-up", "PodsReady")["status"] == "True")
    complete_gang(jobs, "lined-up-1")
    assert await_state(jobs, "lined-up", "Succeeded")["restarts"] == 0
    admitted = found(jobs, f"{BATCH}/lined-up-1")
    assert admitted is not None
    assert not admitted["spec"]["suspend"]


@pytest.mark.parametrize(
    ("name", "changes", "said", "reason"),
    [
        (
            "no-output",
            {"spec.output": None},
            "spec.output: expected a persistentVolumeClaim, got none; add one in a new job",
            "OutputMissing",
        ),
        (
            "own-pet",
            {"spec.podTemplate": {"spec": {"containers": [{"name": "rank", "env": [{"name": "PET_NNODES"}]}]}}},
            "spec.podTemplate.spec.containers[rank].env: expected variables that do not begin with PET_",
            "InvalidPodTemplate",
        ),
        (
            "odd-heads",
            {"spec.gpus": 3, "spec.gpusPerPod": 1, "spec.parallelism": {"ulysses": 3}},
            "spec.parallelism.ulysses: expected a divisor of the model's 8 attention heads, got 3",
            "CannotRun",
        ),
        (
            "unseen",
            {
                "spec.model.source": {"huggingFace": {"repo": "owner/model"}},
                "spec.gpus": 8,
                "spec.parallelism": {"auto": True},
            },
            "spec.parallelism.auto: expected a prompt for each of 8 ranks",
            "DegreesUnknown",
        ),
        (
            "no-pod",
            {"spec.podTemplate": {"spec": {"containers": [{"name": "rank", "imagePullPolicy": "Sometimes"}]}}},
            "the API server refuses Job no-pod-1",
            "Refused",
        ),
        (
            "unknown-field",
            {"spec.podTemplate": {"spec": {"tolerance": []}}},
            "the API server refuses Job unknown-field-1",
            "Refused",
        ),
    ],
)
def test_what_no_pod_can_do_fails_at_once(
    operator: OperatorProcess, jobs: JobsApi, name: str, changes: dict[str, object], said: str, reason: str
) -> None:
    submit(jobs, name, changes)
    ended = await_state(jobs, name, "Failed")
    assert said in ended["message"]
    assert condition(jobs, name, "Failed")["reason"] == reason
    assert said in condition(jobs, name, "Failed")["message"]
    # What a job failed of is one reason among many; that it failed is what its event is called by.
    eventually(lambda: any(said in note for note in notes(jobs, name, "Failed")))
    assert found(jobs, f"{BATCH}/{name}-1") is None


def test_a_strangers_object_is_never_taken_over(operator: OperatorProcess, jobs: JobsApi) -> None:
    jobs.call("POST", f"{CORE}/configmaps", {"metadata": {"name": "taken-1"}, "data": {"mine": "yes"}})
    submit(jobs, "taken")
    assert "expected no ConfigMap taken-1, got one" in await_state(jobs, "taken", "Failed")["message"]
    assert condition(jobs, "taken", "Failed")["reason"] == "NameTaken"
    kept = found(jobs, f"{CORE}/configmaps/taken-1")
    assert kept is not None
    assert kept["data"] == {"mine": "yes"}


def test_a_template_of_the_users_own_is_merged_into_the_pods(operator: OperatorProcess, jobs: JobsApi) -> None:
    template = {
        "metadata": {"labels": {"team": "art"}},
        "spec": {
            "nodeSelector": {"gpu": "fast"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "containers": [
                {
                    "name": "rank",
                    "image": "own/image:1",
                    "env": [{"name": "OMP_NUM_THREADS", "value": "2"}],
                    "resources": {"limits": {"memory": "4Gi"}},
                }
            ],
        },
    }
    submit(jobs, "merged", {"spec.podTemplate": template, "spec.accelerator": "nvidia.com/gpu"})
    pod = gang(jobs, "merged-1")["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert pod["metadata"]["labels"]["team"] == "art"
    assert pod["metadata"]["labels"]["thinwire.dev/attempt"] == "1"
    assert pod["spec"]["nodeSelector"] == {"gpu": "fast"}
    assert pod["spec"]["tolerations"][0]["key"] == "gpu"
    assert container["image"] == "own/image:1"
    assert container["resources"]["limits"] == {"memory": "4Gi", "nvidia.com/gpu": "2"}
    assert {"OMP_NUM_THREADS", "PET_NNODES", "PET_NODE_RANK"} <= {one["name"] for one in container["env"]}
