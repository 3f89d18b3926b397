"""The main job on a real cluster: the manifest of the laptop, applied, runs as restricted pods and tells its story."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from skimage.metrics import peak_signal_noise_ratio

from tests.cluster.e2e.stage import Job, Stage, pictures
from tests.cluster.node.images import REPOSITORY
from tests.controller.waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

EXAMPLE = REPOSITORY / "examples" / "emoji.yaml"
CLAIM = REPOSITORY / "examples" / "cluster" / "emoji-pictures.yaml"
UNCOMPRESSED_MILLIBITS = 32_000
TOLERANCE_DB = 30.0
"""What two runs of different rates may differ by; the least rate of the example measured 46 dB in its worst tenth."""


@pytest.fixture(scope="module")
def folder(stage: Stage) -> Path:
    """The volume that the example's own claim is bound to."""
    stage.kubectl("apply", "-f", str(CLAIM))
    return stage.volume(stage.await_bound("emoji-pictures"))


@pytest.fixture(scope="module")
def emoji(stage: Stage, folder: Path) -> Job:
    """The example, applied and run to its end."""
    stage.kubectl("apply", "-f", str(EXAMPLE))
    job = Job(stage, "emoji")
    job.await_state("Running", "Succeeded")
    job.await_state("Succeeded")
    return job


def test_its_pods_were_admitted_under_pod_security_restricted(stage: Stage, emoji: Job) -> None:
    namespace = stage.raw("get", "namespace", "studio")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    pods = emoji.pods()
    assert len(pods) == 2
    assert {pod["status"]["phase"] for pod in pods} == {"Succeeded"}
    (command,) = {tuple(pod["spec"]["containers"][0]["command"]) for pod in pods}
    assert command[0] == "torchrun"


def test_pictures_on_the_volume_equal_a_laptops(emoji: Job, folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from thinwire.controller.cli.main import main; main()"]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    at_home = tmp_path / "pictures"
    subprocess.run(
        [*command, "run", str(EXAMPLE), "--output", str(at_home)],
        check=True,
        env=environment,
        timeout=600,
        stdout=subprocess.DEVNULL,
    )
    expected, made = pictures(at_home), pictures(folder / "emoji")
    assert len(expected) == 8
    assert made.keys() == expected.keys()
    for name, picture in expected.items():
        different = (picture != made[name]).any()
        psnr = peak_signal_noise_ratio(picture, made[name], data_range=255) if different else 99.0
        assert psnr > TOLERANCE_DB, f"{name}: {psnr:.1f} dB"


def test_kubectl_get_shows_state_progress_rate_and_throughput(stage: Stage, emoji: Job) -> None:
    header, line = stage.kubectl("get", "dj", "emoji").splitlines()
    shown = dict(zip(header.split(), line.split(), strict=True))
    assert (shown["NAME"], shown["STATE"], shown["PROGRESS"]) == ("emoji", "Succeeded", "8/8")
    assert 2000 <= int(shown["MILLIBITS"]) <= UNCOMPRESSED_MILLIBITS
    assert int(shown["MBIT/S"]) > 0


def test_kubectl_describe_reads_as_a_story(stage: Stage, emoji: Job) -> None:
    def told() -> str:
        return stage.kubectl("describe", "dj", "emoji").partition("Events:")[2]

    events = eventually(lambda: told() if "Succeeded" in told() else "")
    chapters = ["AttemptStarted", "Running", "Succeeded"]
    places = [events.find(chapter) for chapter in chapters]
    assert -1 not in places, events
    assert places == sorted(places), events
    assert "all prompts are done: 8 of 8 pictures" in events
    assert "Warning" not in events, events


def test_nothing_but_finished_pods_is_left_and_a_deleted_job_takes_those_along(stage: Stage, folder: Path) -> None:
    job = Job(stage, "emoji")
    job.delete()
    eventually(lambda: not job.children())
    assert len(pictures(folder / "emoji")) == 8
