"""Whatever is killed, cut, restarted or upgraded in mid-run: the job ends right, and every picture is made once."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.cluster.e2e.manifests import FIXED, SHORT_STEPS, job
from tests.cluster.e2e.stage import JOB_SECONDS, SYSTEM, Job, Stage, pictures
from tests.controller.waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

PROMPTS, STEPS = 32, SHORT_STEPS
"""Enough that a job outlasts its faults on a busy machine; the slowest, an upgrade and its rollback, strikes last."""
LONG_PROMPTS = 40
FEW_PROMPTS = 12
"""Enough where every fault stops the ranks or waits for none."""
LONG_CUT_SECONDS = 60.0
"""Longer than a stream lives that nobody answers on (keepalive, its timeout), so that the ranks must dial anew."""


@dataclass(frozen=True)
class Fault:
    """What is done to a job, and whether its gang has to be started again after it."""

    happen: Callable[[Stage, Job], None]
    restarts: int = 0


def kill_a_rank(stage: Stage, running: Job) -> None:
    pod = eventually(running.running_pods)[-1]["metadata"]["name"]
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
    pod = eventually(running.running_pods)[0]["metadata"]["name"]
    stage.kubectl("delete", "pod", pod, "--grace-period=0", "--force")


def kill_the_controller(stage: Stage, _: Job) -> None:
    pod = stage.controller()["metadata"]["name"]
    stage.cluster.kubectl("-n", SYSTEM, "delete", "pod", pod, "--grace-period=0", "--force")


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
    await_commands(stage, running)


def restart_containerd(stage: Stage, running: Job) -> None:
    stage.cluster.programs["containerd"].kill()
    stage.cluster.programs["containerd"].start()
    stage.cluster.containerd.await_ready()
    await_commands(stage, running)


def await_commands(stage: Stage, running: Job) -> None:
    """Wait until pods can be talked to: the node is called ready before that, and may not have been called unready."""
    pod = eventually(running.running_pods)[0]["metadata"]["name"]
    eventually(lambda: stage.answers("exec", pod, "--", "true"))


def suspend_and_resume(stage: Stage, running: Job) -> None:
    patch = '{{"spec":{{"runPolicy":{{"suspend":{}}}}}}}'
    stage.kubectl("patch", "dj", running.name, "--type=merge", "-p", patch.format("true"))
    running.await_state("Suspended")
    running.await_no_pod()
    stage.kubectl("patch", "dj", running.name, "--type=merge", "-p", patch.format("false"))


def upgrade_and_roll_back(stage: Stage, _: Job) -> None:
    stage.release("controller.podAnnotations.upgraded=yes")
    stage.roll_back()


def for_a_moment(running: Job, folder: Path) -> None:
    running.await_steps(STEPS, folder)


def for_a_minute(running: Job, folder: Path) -> None:
    """Or, where ranks are fast, until the last quarter of the job: it has to hear of them again."""
    began, steps = time.monotonic(), LONG_PROMPTS * STEPS * 3 // 4
    eventually(
        lambda: time.monotonic() - began > LONG_CUT_SECONDS or len(running.happened("step", folder)) >= steps,
        within_seconds=JOB_SECONDS,
    )


def cut_telemetry(stage: Stage, running: Job, until: Callable[[Job, Path], None] = for_a_moment) -> None:
    rule = ("FORWARD", "-p", "tcp", "--dport", "8443", "-d", stage.controller()["status"]["podIP"], "-j", "DROP")
    with contextlib.ExitStack() as cut:
        stage.cluster.room.call("iptables", "-I", *rule)
        cut.callback(stage.cluster.room.call, "iptables", "-D", *rule)
        until(running, stage.volume("faults"))


LONG_CUT = "telemetry cut for a minute"
UPGRADE = "release upgraded and rolled back"
FAULTS = {
    "rank killed": Fault(kill_a_rank, restarts=1),
    "pod deleted": Fault(delete_a_pod, restarts=1),
    "controller killed": Fault(kill_the_controller),
    "API server killed": Fault(restart_the_api_server),
    "etcd killed": Fault(restart_etcd),
    "kubelet killed": Fault(restart_the_kubelet),
    "containerd killed": Fault(restart_containerd),
    "telemetry cut": Fault(cut_telemetry),
    LONG_CUT: Fault(functools.partial(cut_telemetry, until=for_a_minute)),
    "suspended and resumed": Fault(suspend_and_resume),
    UPGRADE: Fault(upgrade_and_roll_back),
}

NAMED = {
    ("rank killed", "suspended and resumed", "controller killed", "pod deleted"): FEW_PROMPTS,
    ("API server killed", "etcd killed", LONG_CUT): LONG_PROMPTS,
    ("kubelet killed", "containerd killed", UPGRADE): PROMPTS,
}
"""Faults that strike one job one after the other, each in the middle of a prompt, and how many prompts it has. The pod
is deleted while there is no controller: the next one finds a gang that has failed.
"""

SEEDS = [int(seed) for seed in os.environ.get("THINWIRE_TEST_SEED", "897324").split(",")]
"""The same faults at the same moments in every run, so that a red one can be repeated; other seeds by the variable."""


@pytest.fixture(scope="module")
def folder(stage: Stage) -> Path:
    return stage.claim("faults")


def submitted(stage: Stage, name: str, prompts: int = PROMPTS) -> Job:
    made = job(name, "faults", prompts=prompts, steps=STEPS, compression=FIXED, maxRestarts=6)
    return stage.submit(made)


@pytest.fixture(scope="module")
def expected(stage: Stage, undisturbed: Job) -> dict[str, np.ndarray]:
    """The first pictures, where faults strike, of a job that nothing happened to."""
    undisturbed.await_state("Succeeded")
    undisturbed.delete()
    return pictures(stage.volume(undisturbed.name) / undisturbed.name)


def assert_right(
    running: Job, folder: Path, expected: dict[str, np.ndarray], restarts: int, prompts: int = PROMPTS
) -> None:
    """Every picture is there, once made and equal (to those that are known); restarts are counted; nothing is left."""
    status = running.await_state("Succeeded")
    made = pictures(folder / running.name)
    assert len(made) == prompts
    known = made.keys() & expected.keys()
    assert len(known) == min(prompts, len(expected))
    for name in known:
        assert np.array_equal(made[name], expected[name]), name
    finished = Counter(event["prompt"] for event in running.happened("prompt_finished", folder))
    assert set(finished.values()) == {1}, finished
    assert finished.keys() == made.keys()
    assert status["progress"]["promptsDone"] == prompts
    assert status.get("restarts", 0) == restarts, running.story()
    running.await_no_pod()
    running.delete()
    eventually(lambda: not running.children())


def strike(running: Job, names: Sequence[str], moments: Sequence[int], folder: Path) -> int:
    """Let each fault happen after so many more steps of a job that runs; returns how many restarts that costs."""
    restarts, began = 0, time.monotonic()

    def tell(what: str) -> None:
        steps = len(running.happened("step", folder))
        print(f"{time.monotonic() - began:6.1f} s, {running.name}, step {steps}: {what}", flush=True)

    for name, steps in zip(names, moments, strict=True):
        running.await_steps(steps, folder)
        tell(name)
        FAULTS[name].happen(running.stage, running)
        tell(f"{name}: done")
        restarts += FAULTS[name].restarts
        # The next fault is to strike the next gang, not what is left of this one.
        running.await_restarts(restarts)
    return restarts


@pytest.mark.parametrize(("names", "prompts"), NAMED.items(), ids=map(", ".join, NAMED))
def test_a_job_comes_through(
    names: tuple[str, ...], prompts: int, stage: Stage, folder: Path, expected: dict[str, np.ndarray]
) -> None:
    running = submitted(stage, names[0].replace(" ", "-").lower(), prompts)
    restarts = strike(running, names, [STEPS + STEPS // 2] * len(names), folder)
    assert_right(running, folder, expected, restarts, prompts)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_job_comes_through_faults_at_random_moments(
    seed: int, stage: Stage, folder: Path, expected: dict[str, np.ndarray]
) -> None:
    chance = random.Random(seed)
    running = submitted(stage, f"random-moments-{seed}")
    names = sorted(chance.sample(sorted(FAULTS.keys() - {LONG_CUT}), 3), key=UPGRADE.__eq__)
    restarts = strike(running, names, [chance.randint(1, 2 * STEPS) for _ in names], folder)
    assert_right(running, folder, expected, restarts)


def test_a_job_deleted_in_mid_run_leaves_its_pictures_and_nothing_else(stage: Stage, folder: Path) -> None:
    running = submitted(stage, "deleted")
    running.await_steps(STEPS + 2, folder)
    running.delete()
    eventually(lambda: not running.children())
    assert len(pictures(folder / "deleted")) >= 1
