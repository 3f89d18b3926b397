"""The client over TLS against a real server: who it trusts, and which token it shows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent import futures
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from tests.controller.waiting import eventually
from tests.runtime.facts_of_a_run import run_facts, run_spec
from thinwire.controller.security.certificates import KeyPair, new_authority, new_serving
from thinwire.proto.thinwire.v1alpha1 import telemetry_pb2 as pb
from thinwire.proto.thinwire.v1alpha1 import telemetry_pb2_grpc as pb_grpc
from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import TelemetrySecurity
from thinwire.runtime import messages
from thinwire.runtime.telemetry import TelemetryClient

NAME = "thinwire-controller.thinwire.svc"
NOW = datetime.now(UTC)
HELLO = messages.hello(run_spec(Path("/out"), Path("/model")), run_facts(), prompts_finished=1)
DONE = pb.RunFinished(succeeded=True)


class Controller(pb_grpc.TelemetryServiceServicer):
    """Takes everything of a caller whose token it knows, until it is told to hang up."""

    def __init__(self) -> None:
        self.valid = "first"
        self.shown: list[str] = []
        self.hang_up = threading.Event()

    def Report(self, request_iterator, context) -> Iterator[pb.ReportResponse]:  # noqa: N802
        shown = dict(context.invocation_metadata()).get("authorization", "")
        self.shown.append(shown)
        if shown != f"Bearer {self.valid}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "token unknown")
        for request in request_iterator:
            if request.HasField("run_finished"):
                return
            if self.hang_up.is_set():
                self.hang_up.clear()
                context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")
            yield pb.ReportResponse(directive=pb.Directive(epoch=request.sequence))


class Served:
    def __init__(self, serving: KeyPair) -> None:
        self.controller = Controller()
        self.server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        pb_grpc.add_TelemetryServiceServicer_to_server(self.controller, self.server)
        credentials = grpc.ssl_server_credentials([(serving.key, serving.certificate)])
        self.address = f"127.0.0.1:{self.server.add_secure_port('127.0.0.1:0', credentials)}"
        self.server.start()


@pytest.fixture(scope="module")
def authority() -> KeyPair:
    return new_authority(NOW)


@pytest.fixture
def served(authority: KeyPair) -> Iterator[Served]:
    served = Served(new_serving(authority, [NAME], NOW))
    yield served
    served.server.stop(grace=0).wait(10)


@pytest.fixture
def security(tmp_path: Path, authority: KeyPair) -> TelemetrySecurity:
    (tmp_path / "ca.crt").write_bytes(authority.certificate)
    (tmp_path / "token").write_text("first\n")
    return TelemetrySecurity(ca_file=str(tmp_path / "ca.crt"), token_file=str(tmp_path / "token"), server_name=NAME)


def test_a_stream_over_tls_shows_the_pods_token(served: Served, security: TelemetrySecurity) -> None:
    client = TelemetryClient(served.address, HELLO, security=security)
    eventually(lambda: client.newest_directive() is not None)
    assert client.close(DONE)
    assert served.controller.shown == ["Bearer first"]


def test_a_token_that_was_rotated_is_read_anew_for_the_next_stream(served: Served, security: TelemetrySecurity) -> None:
    client = TelemetryClient(served.address, HELLO, security=security)
    eventually(lambda: client.newest_directive() is not None)
    Path(security.token_file).write_text("second")
    served.controller.valid = "second"
    served.controller.hang_up.set()
    client.step(pb.StepReport(job_step=1))
    eventually(lambda: "Bearer second" in served.controller.shown)
    assert client.close(DONE)
    assert served.controller.shown == ["Bearer first", "Bearer second"]


@pytest.mark.parametrize("content", ["", "two\nlines", "\x00", "é"])
def test_a_token_file_without_a_token_is_waited_for(served: Served, security: TelemetrySecurity, content: str) -> None:
    Path(security.token_file).write_text(content)
    client = TelemetryClient(served.address, HELLO, security=security)
    client.step(pb.StepReport(job_step=1))
    assert not client.close(DONE, timeout_seconds=0.3)
    assert served.controller.shown == []


def test_files_that_come_late_are_waited_for(served: Served, security: TelemetrySecurity) -> None:
    ca, token = Path(security.ca_file), Path(security.token_file)
    ca_content = ca.read_bytes()
    ca.unlink()
    token.unlink()
    client = TelemetryClient(served.address, HELLO, security=security)
    ca.write_bytes(ca_content)
    token.write_text("first")
    eventually(lambda: client.newest_directive() is not None)
    assert client.close(DONE)


def test_no_token_is_shown_to_a_server_of_another_authority(served: Served, security: TelemetrySecurity) -> None:
    Path(security.ca_file).write_bytes(new_authority(NOW).certificate)
    client = TelemetryClient(served.address, HELLO, security=security)
    assert not client.close(DONE, timeout_seconds=1.0)
    assert served.controller.shown == []


def test_no_token_is_shown_to_a_server_of_another_name(served: Served, security: TelemetrySecurity) -> None:
    security.server_name = "thinwire-controller.other.svc"
    client = TelemetryClient(served.address, HELLO, security=security)
    assert not client.close(DONE, timeout_seconds=1.0)
    assert served.controller.shown == []


def test_an_authority_file_without_a_certificate_is_waited_for(served: Served, security: TelemetrySecurity) -> None:
    content = Path(security.ca_file).read_bytes()
    Path(security.ca_file).write_text("not a certificate")
    client = TelemetryClient(served.address, HELLO, security=security)
    client.step(pb.StepReport(job_step=1))
    assert not served.controller.shown
    Path(security.ca_file).write_bytes(content)
    eventually(lambda: client.newest_directive() is not None)
    assert client.close(DONE)
