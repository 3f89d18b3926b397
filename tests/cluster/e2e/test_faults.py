"""Whatever is killed, cut, restarted or upgraded in mid-run: the job ends right, and every picture is made once."""

from __future__ import annotations

import contextlib
import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.cluster.e2e.manifests import FIXED, job
from tests.cluster.e2e.stage import SYSTEM, Job, Stage, pictures
from tests.controller.waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

PROMPTS, STEPS = 40, 12


@dataclass(frozen=True)
class Fault:
    """What is done to a job, and whether its gang has to be started again after it."""

    happen: Callable[[Stage, Job], None]
    restarts: int = 0


def kill_a_rank(stage: Stage, running: Job) -> None:
    pod = running.running_pods()[-1]["metadata"]["name"]
    # The last process of the pod is a rank; torchrun is its first.
    stage.kubectl("exec", pod, "--", "python", "-c", _KILL_A_RANK)


_KILL_A_RANK = """
import os, pathlib, signal
for folder in pathlib.Path("/proc").glob("[0-9]*"):
    words = (folder / "cmdline").read_bytes().split(b"\\0")
    torchrun, this = any(word.endswith(b"torchrun") for word in words), folder.name == str(os.getpid())
    if b"thinwire.runtime" in words and not torchrun and not this:
        os.kill(int(folder.name), signal.SIGKILL)
        break
else:
    raise SystemExit("no rank found")
"""


def delete_a_pod(stage: Stage, running: Job) -> None:
    stage.kubectl("delete", "pod", running.running_pods()[0]["metadata"]["name"], "--grace-period=0", "--force")


def kill_the_controller(stage: Stage, _: Job) -> None:
    (pod,) = (one for one in stage.controller_pods() if one["status"].get("phase") == "Running")
    stage.cluster.kubectl("-n", SYSTEM, "delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force")
    stage.cluster.kubectl("-n", SYSTEM, "rollout", "status", "deployment/thinwire-controller", "--timeout=120s")


def restart_the_api_server(stage: Stage, _: Job) -> None:
    stage.cluster.programs["kube-apiserver"].kill()
    stage.cluster.programs["kube-apiserver"].start()
    stage.cluster.await_api()


def restart_etcd(stage: Stage, _: Job) -> None:
    stage.cluster.programs["etcd"].kill()
    stage.cluster.programs["etcd"].start()
    stage.cluster.await_api()


def restart_the_kubelet(stage: Stage, running: Job) -> None:
    stage.cluster.programs["kubelet"].kill()
    stage.cluster.programs["kubelet"].start()
    stage.cluster.await_node()


def restart_containerd(stage: Stage, _: Job) -> None:
    stage.cluster.programs["containerd"].kill()
    stage.cluster.programs["containerd"].start()
    stage.cluster.containerd.await_ready()


def suspend_and_resume(stage: Stage, running: Job) -> None:
    patch = '{{"spec":{{"runPolicy":{{"suspend":{}}}}}}}'
    stage.kubectl("patch", "dj", running.name, "--type=merge", "-p", patch.format("true"))
    running.await_state("Suspended")
    eventually(lambda: not running.running_pods())
    stage.kubectl("patch", "dj", running.name, "--type=merge", "-p", patch.format("false"))


def upgrade_and_roll_back(stage: Stage, _: Job) -> None:
    stage.release("controller.podAnnotations.upgraded=yes")
    stage.cluster.helm("rollback", "thinwire", "--namespace", SYSTEM, "--wait", "--timeout", "120s")


def cut_telemetry(stage: Stage, running: Job) -> None:
    (controller,) = (one for one in stage.controller_pods() if one["status"].get("phase") == "Running")
    rule = ("FORWARD", "-p", "tcp", "--dport", "8443", "-d", controller["status"]["podIP"], "-j", "DROP")
    with contextlib.ExitStack() as cut:
        stage.cluster.room.call("iptables", "-I", *rule)
        cut.callback(stage.cluster.room.call, "iptables", "-D", *rule)
        running.await_steps(STEPS, stage.cluster.files.folder / "volumes" / "faults")


FAULTS = {
    "rank killed": Fault(kill_a_rank, restarts=1),
    "pod deleted": Fault(delete_a_pod, restarts=1),
    "controller killed": Fault(kill_the_controller),
    "API server killed": Fault(restart_the_api_server),
    "etcd killed": Fault(restart_etcd),
    "kubelet killed": Fault(restart_the_kubelet),
    "containerd killed": Fault(restart_containerd),
    "telemetry cut": Fault(cut_telemetry),
    "suspended and resumed": Fault(suspend_and_resume),
    "release upgraded and rolled back": Fault(upgrade_and_roll_back),
}

NAMED = [
    ("rank killed", "pod deleted"),
    ("suspended and resumed", "controller killed"),
    ("API server killed", "etcd killed", "telemetry cut"),
    ("kubelet killed", "containerd killed", "release upgraded and rolled back"),
]
"""Faults that strike one job one after the other, each in the middle of a prompt."""


@pytest.fixture(scope="module")
def folder(stage: Stage) -> Path:
    return stage.claim("faults")


def submitted(stage: Stage, name: str) -> Job:
    made = job(name, "faults", prompts=PROMPTS, steps=STEPS, compression=FIXED, maxRestarts=6)
    return stage.submit(made)


@pytest.fixture(scope="module")
def undisturbed(stage: Stage, folder: Path) -> dict[str, np.ndarray]:
    """The pictures of a job that nothing happened to."""
    running = submitted(stage, "undisturbed")
    running.await_state("Succeeded")
    running.delete()
    return pictures(folder / "undisturbed")


def assert_right(running: Job, folder: Path, expected: dict[str, np.ndarray], restarts: int) -> None:
    """Every picture is there, once made and equal; restarts are counted; nothing outlives the job."""
    status = running.await_state("Succeeded")
    made = pictures(folder / running.name)
    assert made.keys() == expected.keys()
    for name, picture in expected.items():
        assert np.array_equal(made[name], picture), name
    finished = Counter(event["prompt"] for event in running.happened("prompt_finished", folder))
    assert set(finished.values()) == {1}, finished
    assert status["progress"]["promptsDone"] == PROMPTS
    assert status.get("restarts", 0) == restarts, running.story()
    assert not running.running_pods()
    running.delete()
    eventually(lambda: not running.children())


def strike(running: Job, names: Sequence[str], moments: Sequence[int], folder: Path) -> int:
    """Let each fault happen after so many more steps of a job that runs; returns how many restarts that costs."""
    for name, steps in zip(names, moments, strict=True):
        running.await_steps(steps, folder)
        print(f"{running.name}: {name} after {len(running.happened('step', folder))} steps")
        FAULTS[name].happen(running.stage, running)
    return sum(FAULTS[name].restarts for name in names)


@pytest.mark.parametrize("names", NAMED, ids=", ".join)
def test_a_job_comes_through(
    names: tuple[str, ...], stage: Stage, folder: Path, undisturbed: dict[str, np.ndarray]
) -> None:
    running = submitted(stage, names[0].replace(" ", "-").lower())
    restarts = strike(running, names, [STEPS + STEPS // 2] * len(names), folder)
    assert_right(running, folder, undisturbed, restarts)


def test_a_job_comes_through_faults_at_random_moments(
    stage: Stage, folder: Path, undisturbed: dict[str, np.ndarray]
) -> None:
    # The same faults at the same moments in every run, so that a red one can be repeated; other seeds by the variable.
    seed = int(os.environ.get("THINWIRE_TEST_SEED", "897324"))
    print(f"THINWIRE_TEST_SEED={seed}")
    chance = random.Random(seed)
    running = submitted(stage, "random-moments")
    names = chance.sample(sorted(FAULTS), 3)
    restarts = strike(running, names, [chance.randint(1, 2 * STEPS) for _ in names], folder)
    assert_right(running, folder, undisturbed, restarts)


def test_a_job_deleted_in_mid_run_leaves_its_pictures_and_nothing_else(stage: Stage, folder: Path) -> None:
    running = submitted(stage, "deleted")
    running.await_steps(STEPS + 2, folder)
    running.delete()
    eventually(lambda: not running.children())
    assert len(pictures(folder / "deleted")) >= 1
