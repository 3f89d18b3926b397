"""A pod's link is shaped on the node in mid-run: the rate follows it down and up, and whoever looks can see why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.e2e.links import link_of, received_bytes, shaped
from tests.cluster.e2e.manifests import ADAPTIVE, job
from tests.cluster.e2e.stage import JOB_SECONDS, SYSTEM, Job, Stage
from tests.controller.waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

SLOW_LINK = "12mbit"


@pytest.fixture(scope="module")
def folder(stage: Stage) -> Path:
    return stage.claim("links")


def asked(stage: Stage, *arguments: str) -> str:
    """What `kubectl thinwire status` says, through a port-forward, with certificate checks on."""
    command = [sys.executable, "-c", "from thinwire.controller.cli.main import main; main()", "status", "--cluster"]
    place = ["--namespace", "studio", "--controller", f"{SYSTEM}/thinwire-controller"]
    done = subprocess.run(
        [*command, *place, *arguments],
        env={**os.environ, "KUBECONFIG": str(stage.cluster.kubeconfig())},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def rate(job: Job) -> int:
    compression: dict[str, Any] = job.status().get("compression", {})
    return int(compression.get("millibits", 0))


def rate_changes(stage: Stage) -> list[str]:
    return [event["note"] for event in stage.items("events.events.k8s.io") if event["reason"] == "RateChanged"]


def test_the_rate_follows_a_link_down_and_up_and_everybody_sees_it(stage: Stage, folder: Path) -> None:
    running = stage.submit(job("shaped", "links", prompts=200, steps=28, compression=ADAPTIVE))
    running.await_steps(20, folder)
    eventually(lambda: running.condition("PodsReady")["reason"] == "AllPodsReady", within_seconds=JOB_SECONDS)
    port = link_of(stage.cluster, running.running_pods()[0])
    before = received_bytes(stage.cluster, port)
    running.await_steps(5, folder)
    assert received_bytes(stage.cluster, port) > before, "the exchange does not take this link"
    eventually(lambda: rate(running) > 4000, within_seconds=JOB_SECONDS)
    high = rate(running)
    with shaped(stage.cluster, port, SLOW_LINK):
        eventually(lambda: 0 < rate(running) < high, within_seconds=JOB_SECONDS)
        low = rate(running)
        assert running.status()["compression"]["reason"]
        known = json.loads(asked(stage, "shaped", "-o", "json"))
        assert known["state"] == "JOB_STATE_RUNNING"
    eventually(lambda: rate(running) > low, within_seconds=JOB_SECONDS)
    history = asked(stage, "shaped", "--history")
    assert len(history.splitlines()) > 20
    eventually(lambda: any("bits a value (inter-node links" in note for note in rate_changes(stage)))
    running.delete()
    eventually(lambda: not running.children())
