"""`thinwire status` from outside: kubectl's own port-forward, the chart's rights, the controller's own certificate."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
import yaml

from tests.cluster.e2e.stage import CONTROLLER, STUDIO, SYSTEM, Stage
from tests.cluster.node import images
from tests.controller.waiting import eventually

pytestmark = pytest.mark.cluster

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def waiting(stage: Stage) -> Iterator[str]:
    """A job that is there and does nothing."""
    job: dict[str, Any] = yaml.safe_load((images.REPOSITORY / "examples" / "emoji.yaml").read_text())
    job["metadata"] = {"name": "asked-about"}
    job["spec"]["runPolicy"] = {"suspend": True}
    submitted = stage.submit(job)
    submitted.await_state("Suspended")
    yield submitted.name
    stage.kubectl("delete", "dj", submitted.name)


@pytest.fixture(scope="module")
def environment(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What somebody's shell has who may view the studio's jobs and reach the controller, and no more."""
    account = f"{STUDIO}:anna"
    stage.kubectl("create", "serviceaccount", "anna")
    stage.kubectl("create", "rolebinding", "anna", "--clusterrole", "view", "--serviceaccount", account)
    stage.cluster.kubectl(
        *("--namespace", SYSTEM, "create", "rolebinding", "anna", "--role", f"{CONTROLLER}-status"),
        *("--serviceaccount", account),
    )
    # The authorizer hears of bindings by a watch.
    whom = f"--as=system:serviceaccount:{account}"
    eventually(lambda: stage.answers("auth", "can-i", "list", "diffusionjobs.thinwire.dev", whom))
    eventually(
        lambda: stage.answers(
            "auth", "can-i", "create", "pods", "--subresource=portforward", f"--namespace={SYSTEM}", whom
        )
    )
    kubeconfig: dict[str, Any] = yaml.safe_load(stage.cluster.kubeconfig().read_text())
    for user in kubeconfig["users"]:
        user["user"] = {"token": stage.kubectl("create", "token", "anna").strip()}
    kubeconfig["contexts"][0]["context"]["namespace"] = STUDIO
    path = tmp_path_factory.mktemp("anna") / "kubeconfig"
    path.write_text(yaml.safe_dump(kubeconfig))
    address = stage.cluster.files.place.node_address
    return {**os.environ, "KUBECONFIG": str(path), "PATH": f"{BIN}:{os.environ['PATH']}", "NO_PROXY": address}


def said(environment: dict[str, str], *command: str) -> tuple[int, str, str]:
    done = subprocess.run(command, env={**environment, "COLUMNS": "200"}, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def test_a_person_sees_the_jobs_that_are_his_to_view(environment: dict[str, str], waiting: str):
    code, out, err = said(environment, "thinwire", "status", "--cluster")
    assert (code, err) == (0, "")
    assert f"{STUDIO}/{waiting}" in out
    assert "suspended" in out
    assert f"{SYSTEM}/{CONTROLLER}" in out


def test_kubectl_finds_the_plugin_and_asks_the_cluster(environment: dict[str, str], waiting: str):
    code, out, err = said(environment, "kubectl", "thinwire", "status", waiting)
    assert (code, err) == (0, "")
    assert f"{STUDIO}/{waiting} · suspended" in out


def test_jobs_that_are_not_his_are_refused_by_name(environment: dict[str, str]):
    code, _, err = said(environment, "thinwire", "status", "-n", "default")
    assert code == 1
    assert f"system:serviceaccount:{STUDIO}:anna may not list diffusionjobs.thinwire.dev in namespace default" in err


def test_a_watch_outlives_the_controller(stage: Stage, environment: dict[str, str], waiting: str):
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, watching(environment, waiting, out, err):
        eventually(lambda: read(out).count(f"{STUDIO}/{waiting}: suspended") == 1)
        pod = stage.controller()
        stage.cluster.kubectl("--namespace", SYSTEM, "delete", "pod", pod["metadata"]["name"], "--wait=false")
        eventually(lambda: read(out).count(f"{STUDIO}/{waiting}: suspended") >= 2)
        assert "trying again" in read(err)


@contextlib.contextmanager
def watching(environment: dict[str, str], job: str, out: IO[bytes], err: IO[bytes]) -> Iterator[None]:
    command = ["thinwire", "status", job, "--watch", "--cluster"]
    with subprocess.Popen(command, env={**environment, "PYTHONUNBUFFERED": "1"}, stdout=out, stderr=err) as process:
        try:
            yield
        finally:
            process.terminate()


def read(file: IO[bytes]) -> str:
    return os.pread(file.fileno(), 1 << 20, 0).decode()
