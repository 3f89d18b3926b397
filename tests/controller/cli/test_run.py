"""What `thinwire run` refuses, before anything is started."""

from __future__ import annotations

import fcntl
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from thinwire import __version__
from thinwire.controller.cli.main import main
from thinwire.controller.cli.prepare import run_file, single, uncompressed
from thinwire.controller.local.files import StateFolder
from thinwire.controller.manifest.job import DiffusionJob
from thinwire.controller.planner import plan_job

EXAMPLE = Path(__file__).parents[3] / "examples/emoji.yaml"


@pytest.fixture(autouse=True)
def own_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))


def thinwire(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, list(arguments), catch_exceptions=False)
    return result.exit_code, result.stderr


def manifest(tmp_path: Path, change: Any = None) -> str:
    raw = yaml.safe_load(EXAMPLE.read_text())
    if change is not None:
        change(raw["spec"])
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(raw))
    return str(file)


def refused(*arguments: str) -> str:
    code, err = thinwire(*arguments)
    assert code == 2, err
    assert err.startswith("thinwire: ")
    assert len(err.strip().splitlines()) == 1, err
    return err


BAD = {
    "suspended": (lambda spec: spec.update(runPolicy={"suspend": True}), "runPolicy.suspend"),
    "degrees": (lambda spec: spec.update(gpus=6, gpusPerPod=2), "gpus"),
    "no prompts": (lambda spec: spec["generation"].update(prompts=[]), "prompts"),
    "unknown field": (lambda spec: spec.update(colour="red"), "colour"),
    "a name that leaves the folder": (
        lambda spec: spec["generation"]["prompts"][0].update(name="../x"),
        "name",
    ),
    "limits out of order": (
        lambda spec: spec["compression"].update(rate={"minMillibits": 4000, "maxMillibits": 2000}),
        "minMillibits",
    ),
    "no such model": (lambda spec: spec.update(model={"source": {"path": "/nowhere/at/all"}}), "/nowhere/at/all"),
    "no such bundle": (lambda spec: spec.update(model={"source": {"bundled": "nope"}}), "nope"),
}


@pytest.mark.parametrize(("change", "names"), BAD.values(), ids=BAD)
def test_a_manifest_that_cannot_run_here_is_refused_in_a_sentence(tmp_path: Path, change: Any, names: str):
    said = refused("run", manifest(tmp_path, change), "--output", str(tmp_path / "out"))
    assert names in said
    assert "expected" in said
    assert not (tmp_path / "out").exists()


def test_a_missing_file_is_refused_in_a_sentence(tmp_path: Path):
    assert "nope.yaml" in refused("run", str(tmp_path / "nope.yaml"), "--output", str(tmp_path / "out"))


def test_a_file_that_is_no_yaml_is_refused_in_a_sentence(tmp_path: Path):
    file = tmp_path / "job.yaml"
    file.write_text("{:")
    refused("run", str(file), "--output", str(tmp_path / "out"))


def test_a_bad_link_is_refused_before_the_manifest_is_read(tmp_path: Path):
    said = refused("run", "nope.yaml", "--output", str(tmp_path / "out"), "--emulate-link", "fast")
    assert said.startswith("thinwire: --emulate-link: expected a rate with a unit")


@pytest.mark.parametrize("port", ["-1", "65536"])
def test_a_port_that_cannot_be_is_refused(tmp_path: Path, port: str):
    assert "--port: expected 0 to 65535" in refused("run", "x.yaml", "--output", str(tmp_path), "--port", port)


def test_an_output_that_is_a_file_is_refused(tmp_path: Path):
    (tmp_path / "out").write_text("")
    assert str(tmp_path / "out") in refused("run", manifest(tmp_path), "--output", str(tmp_path / "out"))


@pytest.fixture
def somebody(tmp_path: Path) -> Iterator[None]:
    lock = StateFolder(tmp_path / "out").lock
    lock.parent.mkdir(parents=True)
    with lock.open("w") as file:
        file.write("4711")
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.mark.usefixtures("somebody")
def test_an_output_folder_in_use_is_refused_with_the_process_that_uses_it(tmp_path: Path):
    said = refused("run", manifest(tmp_path), "--output", str(tmp_path / "out"))
    assert "is in use by `thinwire run` with process number 4711" in said


def test_without_an_output_the_folder_is_named_after_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job-pictures").write_text("in the way")
    assert str(tmp_path / "job-pictures") in refused("run", manifest(tmp_path))


def test_a_taken_port_is_refused_and_leaves_no_rank(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = refused("run", manifest(tmp_path), "--output", str(tmp_path / "out"), "--port", str(port))
    assert f"port {port} of 127.0.0.1 is taken" in said
    assert StateFolder(tmp_path / "out").attempts() == []


def test_an_output_where_not_even_root_may_write_is_refused(tmp_path: Path):
    assert "/proc/thinwire" in refused("run", manifest(tmp_path), "--output", "/proc/thinwire/out")


def test_the_version_is_printed():
    result = CliRunner().invoke(main, ["version"])
    assert result.output == f"thinwire {__version__}\n"


@pytest.fixture
def job() -> DiffusionJob:
    return DiffusionJob.from_raw(yaml.safe_load(EXAMPLE.read_text()))


def test_a_run_counts_its_attempts_on_from_those_of_the_folder(job: DiffusionJob, tmp_path: Path):
    (StateFolder(tmp_path).attempt(3)).mkdir(parents=True)
    assert run_file(job, plan_job(job), tmp_path, ()).first_attempt == 4


def test_the_runs_to_compare_with_differ_in_nothing_but_the_way(job: DiffusionJob, tmp_path: Path):
    own, off, alone = run_file(job, plan_job(job), tmp_path, ()), uncompressed(job, tmp_path, ()), single(job, tmp_path)
    assert own.run_spec["generation"] == off.run_spec["generation"] == alone.run_spec["generation"]
    assert off.run_spec["compression"]["mode"] == "COMPRESSION_MODE_OFF"
    assert (own.ranks, off.ranks, alone.ranks) == (4, 4, 1)
    assert alone.rank_module == "thinwire.runtime.single"
