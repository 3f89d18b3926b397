from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.controller.serving import KEY, Served, served
from tests.controller.test_status_service import a_job_after
from tests.controller.waiting import eventually
from thinwire.controller.cli.main import main
from thinwire.controller.job_record import JobKey, JobRecord
from thinwire.controller.local import registry
from thinwire.controller.local.processes import Process
from thinwire.controller.plan import State


@pytest.fixture(autouse=True)
def own_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.fixture
def controller() -> Iterator[Served]:
    with served(a_job_after(10), JobRecord(JobKey("other", "second"))) as running:
        yield running


def entry(port: int, process: str | None = None) -> registry.Entry:
    return registry.Entry(process or str(Process.of(os.getpid())), f"127.0.0.1:{port}", "default", "emoji", "/out")


def thinwire(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, list(arguments), env={"COLUMNS": "160"})
    assert not isinstance(result.exception, Exception) or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_without_jobs_it_says_so():
    assert thinwire("status") == (0, "no job runs here\n", "")


def test_running_jobs_are_found_and_listed(controller: Served):
    with registry.registered(entry(controller.port)):
        code, out, _ = thinwire("status")
    assert code == 0
    assert "default/emoji" in out
    assert "running" in out
    assert "other/second" in out


@pytest.mark.parametrize("name", ["emoji", "default/emoji"])
def test_one_job_is_shown_in_full(controller: Served, name: str):
    with registry.registered(entry(controller.port)):
        code, out, _ = thinwire("status", name)
    assert code == 0
    assert "prompt-0, step 10 of 28" in out
    assert "32 bits per value" in out
    assert "MB/s intra-node" in out


def test_json_is_what_the_protocol_says(controller: Served):
    code, out, _ = thinwire("status", "emoji", "-o", "json", "--address", f"127.0.0.1:{controller.port}")
    assert code == 0
    job = json.loads(out)
    assert (job["name"], job["state"], job["step"]) == ("emoji", "JOB_STATE_RUNNING", 10)
    assert job["framesRefused"] == 0


def test_an_unknown_job_is_said_to_be_unknown(controller: Served):
    code, _, err = thinwire("status", "nope", "--address", f"127.0.0.1:{controller.port}")
    assert code == 1
    assert err.startswith("thinwire: no job nope is known to 127.0.0.1:")


def test_an_address_where_nobody_answers_is_named():
    code, _, err = thinwire("status", "--address", "127.0.0.1:1")
    assert code == 1
    assert err == "thinwire: no controller answers at 127.0.0.1:1 (UNAVAILABLE); check the address\n"


def test_entries_of_dead_controllers_are_ignored_and_removed(tmp_path: Path):
    me = Process.of(os.getpid())
    with registry.registered(entry(1, str(Process(me.pid, me.start_ticks - 1)))):
        assert thinwire("status") == (0, "no job runs here\n", "")
        assert list((tmp_path / "thinwire").glob("*.json")) == []


def test_unreadable_entries_are_ignored(tmp_path: Path):
    registry.folder()
    (tmp_path / "thinwire/1.json").write_text("{")
    assert thinwire("status") == (0, "no job runs here\n", "")


def test_the_registry_of_somebody_else_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    registry.folder()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(PermissionError, match="belongs to somebody else"):
        registry.folder()


def test_a_watch_prints_changes_until_the_job_ends(controller: Served):
    said: list[tuple[int, str, str]] = []
    address = f"127.0.0.1:{controller.port}"
    watching = threading.Thread(
        target=lambda: said.append(thinwire("status", "emoji", "--watch", "--address", address))
    )
    watching.start()
    eventually(lambda: controller.inside(lambda: controller.store._changed.get(KEY)))
    controller.inside(lambda: controller.store.put(replace(a_job_after(11), state=State.SUCCEEDED)))
    watching.join(30)
    ((code, out, _),) = said
    assert code == 0
    assert [line.split(", ")[0] for line in out.splitlines()] == ["default/emoji: running", "default/emoji: succeeded"]


def test_a_watch_of_several_jobs_asks_for_one(controller: Served):
    code, _, err = thinwire("status", "--watch", "--address", f"127.0.0.1:{controller.port}")
    assert code == 1
    assert "--watch follows one job, and these run here: default/emoji, other/second; name one" in err


def test_without_a_place_for_the_registry_a_job_still_runs_and_status_says_why_it_finds_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "file"))
    with registry.registered(entry(1)):
        code, _, err = thinwire("status")
    assert code == 1
    assert err.startswith("thinwire: the list of running jobs cannot be read: ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--local", "--cluster"], "--cluster asks a cluster, --local does not; choose one"),
        (["--address", "x:1", "-n", "team"], "--namespace asks a cluster, --address does not; choose one"),
        (["--address", "x:1", "--local"], "--local asks this machine, --address one controller; choose one"),
        (["--watch", "--history"], "--watch follows, --history looks back; choose one"),
        (["-n", "team", "-A"], "--namespace names one, -A means all; choose one"),
        (["--token-file", "t"], "--token-file and --ca-file go with --address or a cluster option"),
        (["--address", "x:1", "--token-file", "t"], "a token is never sent over a plain line"),
        (["--address", "x:1", "--ca-file", "/nowhere"], "--ca-file: /nowhere cannot be read"),
        (
            ["--address", "x:1", "--ca-file", os.devnull],
            "--ca-file: expected certificates in PEM in /dev/null, got none",
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused(arguments: list[str], words: str):
    code, _, err = thinwire("status", *arguments)
    assert code == 2
    assert words in " ".join(err.split())


def test_without_a_kubeconfig_the_cluster_is_said_to_be_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    code, _, err = thinwire("status", "--cluster")
    assert code == 1
    assert err.startswith("thinwire: no cluster to ask: ")


def test_history_shows_every_step(controller: Served):
    code, out, _ = thinwire("status", "emoji", "--history", "--address", f"127.0.0.1:{controller.port}")
    assert code == 0
    assert "10 of 10 steps that are remembered" in out
    assert "10/28" in out
