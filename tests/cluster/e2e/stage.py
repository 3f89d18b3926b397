"""Where jobs are played on the real cluster: a namespace under Pod Security `restricted`, the chart, volumes, jobs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.cluster.node import images
from tests.cluster.node.cluster import Cluster
from tests.cluster.node.room import NodeError
from tests.controller.waiting import eventually

SYSTEM, STUDIO = "thinwire-system", "studio"
CHART = images.REPOSITORY / "charts" / "thinwire"
CONTROLLER = "thinwire-controller"
USER_ID = 65532
ENDED = ("Succeeded", "Failed")
JOB_SECONDS = 600.0

Raw = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """A cluster with thinwire installed."""

    cluster: Cluster

    def kubectl(self, *arguments: str, text: str | None = None, user: str = "admin") -> str:
        return self.cluster.kubectl("--namespace", STUDIO, *arguments, text=text, user=user)

    def raw(self, *arguments: str) -> Raw:
        found: Raw = json.loads(self.kubectl(*arguments, "-o", "json"))
        return found

    def items(self, *arguments: str) -> list[Raw]:
        found: list[Raw] = self.raw("get", *arguments)["items"]
        return found

    def release(self, *values: str) -> str:
        """Install or upgrade the chart with the images of this checkout, and wait until it is ready."""
        own = ["controller.image.tag=dev", "runtime.image.tag=dev", "controller.image.pullPolicy=Never", *values]
        chosen = [word for value in own for word in ("--set", value)]
        place = ("--namespace", SYSTEM, "--create-namespace", "--wait", "--timeout", "600s")
        said = self.cluster.helm("upgrade", "--install", "thinwire", str(CHART), *place, *chosen)
        self._await_rollout()
        return said

    def roll_back(self) -> str:
        """Take the last upgrade of the chart back, and wait until that is ready."""
        said = self.cluster.helm("rollback", "thinwire", "--namespace", SYSTEM, "--wait", "--timeout", "600s")
        self._await_rollout()
        return said

    def _await_rollout(self) -> None:
        # To helm, a Deployment that may do without its only pod is ready without it.
        self.cluster.kubectl("-n", SYSTEM, "rollout", "status", f"deployment/{CONTROLLER}", "--timeout=600s")

    def answers(self, *arguments: str) -> bool:
        """Whether kubectl could do it."""
        try:
            self.kubectl(*arguments)
        except NodeError:
            return False
        return True

    def volume(self, name: str) -> Path:
        """The folder behind the claim of this name."""
        return self.cluster.files.volumes / name

    def claim(self, name: str) -> Path:
        """A volume on this machine, claimed under this name; returns its folder."""
        folder = self.volume(name)
        folder.mkdir(parents=True)
        folder.chmod(0o777)
        size = {"storage": "1Gi"}
        volume: Raw = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {
                "capacity": size,
                "accessModes": ["ReadWriteMany"],
                "hostPath": {"path": str(folder)},
                "storageClassName": "by-hand",
                "claimRef": {"namespace": STUDIO, "name": name},
            },
        }
        claim: Raw = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name},
            "spec": {
                "accessModes": ["ReadWriteMany"],
                "storageClassName": "by-hand",
                "resources": {"requests": size},
                "volumeName": name,
            },
        }
        self.kubectl("apply", "-f", "-", text=json.dumps(volume))
        self.kubectl("apply", "-f", "-", text=json.dumps(claim))
        self.await_bound(name)
        return folder

    def await_bound(self, claim: str) -> str:
        """Wait until a claim has its volume, for the scheduler's first word would be about that; the volume's name."""

        def volume() -> str:
            found = self.raw("get", "pvc", claim)
            return str(found["spec"]["volumeName"]) if found["status"].get("phase") == "Bound" else ""

        return eventually(volume)

    def submit(self, job: Raw) -> Job:
        """Apply a job and return a handle on it."""
        self.kubectl("apply", "-f", "-", text=json.dumps(job))
        return Job(self, job["metadata"]["name"])

    def controller(self) -> Raw:
        """The one controller's pod, as soon as there is one that runs and no other that still ends."""

        def alone() -> Raw | None:
            pods = self.controller_pods()
            running = len(pods) == 1 and pods[0]["status"].get("phase") == "Running"
            return pods[0] if running and "deletionTimestamp" not in pods[0]["metadata"] else None

        pod = eventually(alone, within_seconds=JOB_SECONDS)
        assert pod is not None
        return pod

    def controller_pods(self) -> list[Raw]:
        listed = self.cluster.kubectl(
            *("--namespace", SYSTEM, "get", "pods", "-l", f"app.kubernetes.io/name={CONTROLLER}", "-o", "json")
        )
        pods: list[Raw] = json.loads(listed)["items"]
        return pods


@dataclass(frozen=True)
class Job:
    """One DiffusionJob on the stage."""

    stage: Stage
    name: str

    def raw(self) -> Raw:
        return self.stage.raw("get", "dj", self.name)

    def status(self) -> Raw:
        found: Raw = self.raw().get("status", {})
        return found

    def state(self) -> str:
        return str(self.status().get("state", ""))

    def condition(self, kind: str) -> Raw:
        """One of its conditions; empty words while there is none."""
        known: dict[str, Raw] = {one["type"]: one for one in self.status().get("conditions", ())}
        return known.get(kind, {"status": "", "reason": "", "message": ""})

    def pods(self) -> list[Raw]:
        return self.stage.items("pods", "-l", f"thinwire.dev/job-name={self.name}")

    def reasons(self) -> list[str]:
        """Reasons of its events, in the order in which they were told first."""
        events = [one for one in self.stage.items("events.events.k8s.io") if one["regarding"]["name"] == self.name]
        return [one["reason"] for one in sorted(events, key=lambda one: str(one["eventTime"]))]

    def await_state(self, *states: str, within_seconds: float = JOB_SECONDS) -> Raw:
        """Wait for one of these states; a job that ends otherwise fails the test with its story."""

        def reached() -> bool:
            state = self.state()
            assert state in states or state not in ENDED, f"{self.name} is {state}:\n{self.story()}"
            return state in states

        self._eventually(reached, within_seconds)
        return self.status()

    def running_pods(self) -> list[Raw]:
        """Those of the gang that works: earlier attempts leave pods that have ended."""
        return [pod for pod in self.pods() if pod["status"].get("phase") == "Running"]

    def await_no_pod(self) -> None:
        """Wait until none of its pods works any more."""
        self._eventually(lambda: not self.running_pods(), JOB_SECONDS)

    def await_restarts(self, number: int) -> None:
        """Wait until so many restarts are counted."""
        self._eventually(lambda: self.status().get("restarts", 0) >= number, JOB_SECONDS)

    def happened(self, kind: str, folder: Path) -> list[Raw]:
        """The events of this type that the ranks have written down on the volume, over all attempts."""
        file = folder / self.name / "events.jsonl"
        if not file.exists():
            return []
        # A rank that was killed may have left a line without its end.
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
        return [one for one in map(json.loads, lines) if one["type"] == kind]

    def await_steps(self, number: int, folder: Path, within_seconds: float = JOB_SECONDS) -> None:
        """Wait until the ranks have made so many more steps."""
        until = len(self.happened("step", folder)) + number

        def reached() -> bool:
            assert self.state() not in ENDED, f"{self.name} has ended:\n{self.story()}"
            return len(self.happened("step", folder)) >= until

        self._eventually(reached, within_seconds)

    def story(self) -> str:
        """What somebody would look at who asks what is wrong."""
        logs = ""
        for pod in self.pods():
            logs += f"--- {pod['metadata']['name']}: {pod['status'].get('phase')}\n"
            logs += self.stage.kubectl("logs", pod["metadata"]["name"], "--tail=20", "--ignore-errors")
        return self.stage.kubectl("describe", "dj", self.name) + logs

    def children(self) -> list[str]:
        """What there is of it in the cluster beside itself."""
        kinds = "pods,jobs,services,configmaps"
        found = self.stage.items(kinds, "-l", f"thinwire.dev/job-name={self.name}")
        return [f"{one['kind']}/{one['metadata']['name']}" for one in found]

    def delete(self) -> None:
        self.stage.kubectl("delete", "dj", self.name, "--wait=true")

    def _eventually(self, condition: Callable[[], bool], within_seconds: float) -> None:
        def held() -> bool:
            try:
                return condition()
            except NodeError:
                # An API server that has just been started again does not answer every question.
                return False

        try:
            eventually(held, within_seconds=within_seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.story()}") from None


def pictures(folder: Path) -> dict[str, np.ndarray]:
    """Every finished picture below an output folder, by prompt: uint8 [height, width, 3]."""
    return {
        path.stem: np.asarray(Image.open(path).convert("RGB")) for path in sorted((folder / "images").glob("*.png"))
    }
