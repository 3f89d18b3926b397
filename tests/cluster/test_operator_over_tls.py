"""The whole line, every part of it real: operator's ConfigMap, pod's bound token, the runtime's own client, TLS."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import json_format

from tests.cluster.control_plane import ControlPlane
from tests.cluster.gangs import CORE, gang, make_pods, run_pods
from tests.cluster.jobs_api import JobsApi
from tests.cluster.operating import await_state, make_surroundings, status, submit
from tests.cluster.operator_process import OperatorProcess, operator_process
from tests.cluster.people import People
from tests.controller import messages
from tests.controller.waiting import eventually
from thinwire.controller.security.access import TELEMETRY_AUDIENCE
from thinwire.proto.thinwire.v1alpha1 import telemetry_pb2 as pb
from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import RunSpec
from thinwire.runtime.telemetry import TelemetryClient

pytestmark = pytest.mark.cluster

REPOSITORY = Path(__file__).resolve().parents[2]
WRITTEN_DOWN = ("docs/operations.md", "charts/thinwire/files/alerts.yaml", "charts/thinwire/files/dashboard.json")


@pytest.fixture(scope="module")
def operator(plane: ControlPlane, jobs: JobsApi) -> Iterator[OperatorProcess]:
    make_surroundings(jobs)
    with operator_process(plane, "--no-leader-elect", "--tls-secret", "thinwire-tls-test") as running:
        eventually(lambda: running.logged("controller_ready"))
        yield running


def connected(jobs: JobsApi, job: str, pod: str, folder: Path, *, claims: str = "") -> TelemetryClient:
    """The client of rank 0 in `pod`, with the files that the kubelet would have mounted for it."""
    config = jobs.call("GET", f"{CORE}/configmaps/{job}-1")["data"]
    spec = json_format.Parse(config["run_spec.json"], RunSpec())
    uid = jobs.call("GET", f"{CORE}/pods/{pod}")["metadata"]["uid"]
    (folder / "ca.crt").write_text(config["ca.crt"])
    (folder / "token").write_text(People(jobs).token("default", "default", audience=TELEMETRY_AUDIENCE, pod=(pod, uid)))
    security = spec.telemetry_security
    assert (Path(security.ca_file).name, Path(security.token_file).name) == ("ca.crt", "token")
    security.ca_file, security.token_file = str(folder / "ca.crt"), str(folder / "token")
    hello = messages.hello(job_name=claims or spec.job_name, attempt=spec.attempt).hello
    return TelemetryClient(spec.telemetry_address, hello, security=security)


def test_a_rank_reports_from_its_pod_and_hears_a_directive(
    operator: OperatorProcess, jobs: JobsApi, tmp_path: Path
) -> None:
    submit(jobs, "tls")
    pods = make_pods(jobs, gang(jobs, "tls-1"))
    run_pods(jobs, pods)
    client = connected(jobs, "tls", pods[0], tmp_path)
    for number in range(6):
        client.step(messages.step(0, number, bytes_per_second=5e6).step)
    directive = eventually(client.newest_directive)
    assert directive.epoch == 1
    eventually(lambda: status(jobs, "tls").get("link"))
    assert client.close(pb.RunFinished(succeeded=True), timeout_seconds=30)
    assert "call_refused" not in operator.log.read_text()


def test_a_rank_that_speaks_for_another_job_is_turned_away_and_counted(
    operator: OperatorProcess, jobs: JobsApi, tmp_path: Path
) -> None:
    submit(jobs, "honest")
    submit(jobs, "crooked")
    gang(jobs, "honest-1")
    pods = make_pods(jobs, gang(jobs, "crooked-1"))
    client = connected(jobs, "crooked", pods[0], tmp_path, claims="honest")
    refused = eventually(lambda: operator.logged("call_refused"))
    assert refused[0]["reason"] == "hello of another job"
    assert not client.close(pb.RunFinished(succeeded=True), timeout_seconds=0.2)
    eventually(lambda: 'calls_refused_total{reason="hello of another job"}' in operator.http("/metrics"))
    assert "link" not in status(jobs, "honest")
    assert await_state(jobs, "honest", "Starting")["attempt"] == 1


def test_every_metric_that_is_written_down_is_there(operator: OperatorProcess) -> None:
    served = set(re.findall(r"^# HELP (\S+)", operator.http("/metrics"), re.MULTILINE))
    served |= {f"{name}_{part}" for name in served for part in ("bucket", "count", "sum")}
    for file in WRITTEN_DOWN:
        named = set(re.findall(r"thinwire_controller_[a-z_]+[a-z]", (REPOSITORY / file).read_text()))
        assert named
        assert named - served == set(), file
