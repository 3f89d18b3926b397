"""`thinwire status` against a cluster's controller: real API server, accounts, tokens and TLS."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from tests.cluster import stand_in_kubectl
from tests.cluster.control_plane import ControlPlane
from tests.cluster.jobs_api import JobsApi
from tests.cluster.people import People
from tests.cluster.secured import HOME, JOBS, secured, settled
from tests.controller.serving import KEY, Served
from tests.controller.test_status_service import a_job_after
from tests.controller.waiting import eventually
from thinwire.controller.cli.main import main
from thinwire.controller.job_record import JobKey, JobRecord
from thinwire.controller.plan import State
from thinwire.controller.security.certificates import new_authority

pytestmark = pytest.mark.cluster

CONTROLLER = f"{HOME}/thinwire-controller"


@pytest.fixture(scope="module")
def people(jobs: JobsApi) -> People:
    people = settled(jobs)
    people.account("default", "anna")
    people.may("default", "anna", [{**JOBS, "verbs": ["get", "list", "watch"]}])
    public = {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["thinwire-ca"], "verbs": ["get"]}
    people.may(HOME, "anna", [public], of="default")
    people.account("default", "bob")
    people.may(HOME, "bob", [public], of="default")
    return people


@pytest.fixture
def controller(plane: ControlPlane, people: People) -> Iterator[Served]:
    with secured(plane, people, a_job_after(10), JobRecord(JobKey("other", "second"))) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path, controller: Served, monkeypatch: pytest.MonkeyPatch) -> Path:
    stand_in_kubectl.write(tmp_path, controller.port)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("THINWIRE_CONTROLLER", CONTROLLER)
    return tmp_path


def kubeconfig(folder: Path, plane: ControlPlane, user: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "kubeconfig"
    cluster = {"server": plane.url, "certificate-authority": str(plane.certificate)}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "someone", "user": user}],
        "contexts": [
            {"name": "here", "context": {"cluster": "test", "user": "someone"}},
            {"name": "there", "context": {"cluster": "test", "user": "someone", "namespace": "other"}},
        ],
        "current-context": "here",
    }
    path.write_text(yaml.safe_dump(document))
    monkeypatch.setenv("KUBECONFIG", str(path))


@pytest.fixture
def anna(folder: Path, plane: ControlPlane, people: People, monkeypatch: pytest.MonkeyPatch) -> str:
    token = people.token("default", "anna")
    kubeconfig(folder, plane, {"token": token}, monkeypatch)
    return token


def thinwire(*arguments: str, program: str = "thinwire") -> tuple[int, str, str]:
    result = CliRunner().invoke(main, list(arguments), env={"COLUMNS": "200"}, prog_name=program)
    assert not isinstance(result.exception, Exception), result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.usefixtures("anna")
def test_a_person_sees_the_jobs_of_his_namespace_over_tls_with_his_own_token(folder: Path):
    code, out, err = thinwire("status", "--cluster")
    assert (code, err) == (0, "")
    assert "default/emoji" in out
    assert CONTROLLER in out
    asked = (folder / "asked").read_text().split("\n")
    assert asked == [
        "port-forward",
        "--namespace",
        HOME,
        "--address",
        "127.0.0.1",
        "service/thinwire-controller",
        ":8443",
    ]


@pytest.mark.usefixtures("anna")
@pytest.mark.parametrize("job", ["emoji", "default/emoji"])
def test_one_job_is_shown_in_full_and_its_history_by_step(job: str):
    assert "step 10 of 28" in thinwire("status", job, "--cluster")[1]
    code, out, _ = thinwire("status", job, "--cluster", "--history")
    assert code == 0
    assert "10 of 10 steps that are remembered" in out
    samples = json.loads(thinwire("status", job, "--cluster", "--history", "-o", "json")[1])
    assert [sample["jobStep"] for sample in samples] == list(range(10))


@pytest.mark.usefixtures("anna")
def test_the_plugin_asks_the_cluster_and_the_program_asks_this_machine():
    assert "default/emoji" in thinwire("status", program="kubectl-thinwire")[1]
    assert thinwire("status") == (0, "no job runs here\n", "")
    assert thinwire("status", "--local", program="kubectl-thinwire") == (0, "no job runs here\n", "")


@pytest.mark.usefixtures("anna")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--context", "there"], "may not list diffusionjobs.thinwire.dev in namespace other"),
        (["-n", "other"], "may not list diffusionjobs.thinwire.dev in namespace other"),
        (["-A"], "may not list diffusionjobs.thinwire.dev in all namespaces; name one"),
        (["other/second", "--cluster"], "may not get diffusionjobs.thinwire.dev second in namespace other"),
        (["second", "--cluster"], "no job second is known to"),
        (["--context", "nowhere"], "expected a context of the kubeconfig (here, there), got 'nowhere'"),
        (["--cluster", "--controller", "default/thinwire-controller"], "ConfigMap thinwire-ca of namespace default"),
        (["--cluster", "--controller", "x"], "expected NAMESPACE/SERVICE, got 'x'"),
    ],
)
def test_what_is_not_allowed_or_not_there_is_said_in_a_sentence(arguments: list[str], words: str):
    code, out, err = thinwire("status", *arguments)
    assert code in (1, 2)
    assert "PROMPTS" not in out
    assert err.startswith("thinwire: ")
    assert words in err


def test_a_person_without_rights_reads_nothing(
    folder: Path, plane: ControlPlane, people: People, monkeypatch: pytest.MonkeyPatch
):
    kubeconfig(folder, plane, {"token": people.token("default", "bob")}, monkeypatch)
    code, out, err = thinwire("status", "--cluster")
    assert code == 1
    assert "PROMPTS" not in out
    assert "system:serviceaccount:default:bob may not list diffusionjobs.thinwire.dev in namespace default" in err


def test_a_user_by_client_certificate_is_told_how_to_get_a_token_and_may_show_one(
    folder: Path, plane: ControlPlane, people: People, monkeypatch: pytest.MonkeyPatch
):
    pair = new_authority(datetime.now(UTC))
    (folder / "user.crt").write_bytes(pair.certificate)
    (folder / "user.key").write_bytes(pair.key)
    certificate = {"client-certificate": str(folder / "user.crt"), "client-key": str(folder / "user.key")}
    kubeconfig(folder, plane, dict(certificate), monkeypatch)
    code, _, err = thinwire("status", "--cluster")
    assert code == 1
    assert "kubectl create token SERVICEACCOUNT > FILE" in err
    (folder / "token").write_text(people.token("default", "anna"))
    (folder / "ca.crt").write_bytes(authorities(people))
    code, out, err = thinwire(
        "status", "--cluster", "--token-file", str(folder / "token"), "--ca-file", str(folder / "ca.crt")
    )
    assert (code, err) == (0, "")
    assert "default/emoji" in out


def test_an_exec_plugin_of_the_kubeconfig_gives_the_token(
    folder: Path, plane: ControlPlane, people: People, monkeypatch: pytest.MonkeyPatch
):
    credential = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": people.token("default", "anna")},
    }
    (folder / "credential").write_text(json.dumps(credential))
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "cat",
        "args": [str(folder / "credential")],
        "interactiveMode": "Never",
    }
    kubeconfig(folder, plane, {"exec": plugin}, monkeypatch)
    code, out, err = thinwire("status", "--cluster")
    assert (code, err) == (0, "")
    assert "default/emoji" in out


def authorities(people: People) -> bytes:
    found = people.api.call("GET", f"/api/v1/namespaces/{HOME}/configmaps/thinwire-ca")
    return found["data"]["ca.crt"].encode()


def test_a_controller_of_another_authority_is_shown_no_token(folder: Path, anna: str):
    del anna
    other = new_authority(datetime.now(UTC))
    (folder / "other.crt").write_bytes(other.certificate)
    code, _, err = thinwire("status", "--cluster", "--ca-file", str(folder / "other.crt"))
    assert code == 1
    assert "shows a certificate that cannot be trusted" in err


def test_a_controller_may_be_dialled_directly(folder: Path, anna: str, controller: Served, people: People):
    (folder / "token").write_text(anna)
    (folder / "ca.crt").write_bytes(authorities(people))
    files = ["--token-file", str(folder / "token"), "--ca-file", str(folder / "ca.crt")]
    code, out, err = thinwire("status", "default/emoji", "--address", f"127.0.0.1:{controller.port}", *files)
    assert (code, err) == (0, "")
    assert "step 10 of 28" in out


@pytest.mark.usefixtures("anna")
def test_kubectls_own_words_are_passed_on(folder: Path):
    stand_in_kubectl.write_refusing(
        folder, 'Error from server (Forbidden): services "thinwire-controller" is forbidden'
    )
    code, _, err = thinwire("status", "--cluster")
    assert code == 1
    assert "kubectl does not forward to the controller thinwire-security/thinwire-controller: Error from server" in err


@pytest.mark.usefixtures("anna")
def test_without_kubectl_the_other_way_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch):
    (folder / "kubectl").unlink()
    monkeypatch.setenv("PATH", str(folder))
    code, _, err = thinwire("status", "--cluster")
    assert code == 1
    assert "expected kubectl on PATH" in err
    assert "--address HOST:PORT --ca-file FILE --token-file FILE" in err


@pytest.mark.usefixtures("anna", "folder")
def test_a_watch_follows_a_job_to_its_end(controller: Served):
    said: list[tuple[int, str, str]] = []
    watching = threading.Thread(target=lambda: said.append(thinwire("status", "emoji", "--watch", "--cluster")))
    watching.start()
    eventually(lambda: controller.inside(lambda: controller.store._changed.get(KEY)))
    controller.inside(lambda: controller.store.put(replace(a_job_after(11), state=State.SUCCEEDED)))
    watching.join(240)
    ((code, out, _),) = said
    assert code == 0
    assert [line.split(", ")[0] for line in out.splitlines()] == ["default/emoji: running", "default/emoji: succeeded"]
