from __future__ import annotations

import asyncio
import queue
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.controller.messages import hello, step
from tests.controller.security.fakes import FakeCluster, pod_caller
from tests.controller.serving import KEY, Served, channel_to, served
from tests.controller.waiting import eventually
from thinwire.controller.job_record import JobRecord
from thinwire.controller.security.access import TELEMETRY_AUDIENCE, Access
from thinwire.controller.security.certificates import CertificateError, new_authority, new_serving
from thinwire.controller.security.cluster import ClusterError, JobPod, Kept
from thinwire.controller.security.guard import Guard
from thinwire.controller.security.open import Security, open_security
from thinwire.controller.security.refusals import Refusals
from thinwire.controller.security.serving import FolderSource, SecretSource, ServingCertificate

NAMES = ["localhost", "127.0.0.1"]
NOW = datetime.now(UTC)


def a_cluster() -> FakeCluster:
    return FakeCluster(
        tokens={("pod", TELEMETRY_AUDIENCE): pod_caller("default", "emoji-0")},
        pods={("default", "emoji-0"): JobPod("u1", "emoji", 1)},
    )


def write_folder(folder: Path, names: list[str] = NAMES) -> None:
    authority = new_authority(NOW)
    serving = new_serving(authority, names, NOW)
    for name, content in (
        ("ca.crt", authority.certificate),
        ("tls.crt", serving.certificate),
        ("tls.key", serving.key),
    ):
        (folder / name).write_bytes(content)


def opening(source: FolderSource | SecretSource, cluster: FakeCluster) -> Callable[[], object]:
    async def opened() -> Security:
        certificate = ServingCertificate(source)
        await certificate.refresh()
        refusals = Refusals()
        guard = Guard(Access(cluster), refusals)
        return Security(certificate.credentials(), (guard,), refusals, certificate, cluster, "thinwire")  # type: ignore[arg-type]

    return opened


def refresh(controller: Served) -> bool:
    assert controller.security is not None
    return asyncio.run_coroutine_threadsafe(controller.security.certificate.refresh(), controller.loop).result(30)


def shown(controller: Served) -> int:
    """Serial number of the certificate that a new connection sees."""
    pem = ssl.get_server_certificate(("127.0.0.1", controller.port), timeout=30)
    return x509.load_pem_x509_certificate(pem.encode()).serial_number


def report(controller: Served, said: queue.Queue[object]) -> grpc.Call:
    return controller.telemetry.Report(iter(said.get, None), metadata=(("authorization", "Bearer pod"),))


@pytest.mark.parametrize("kind", ["folder", "secret"])
def test_a_renewed_certificate_serves_new_connections_and_running_streams_go_on(kind: str, tmp_path: Path):
    now, cluster = [NOW - timedelta(days=70)], a_cluster()
    write_folder(tmp_path)
    source = (
        FolderSource(tmp_path)
        if kind == "folder"
        else SecretSource(cluster, "thinwire", "tls", NAMES, clock=lambda: now[0])
    )
    with served(JobRecord(KEY), opening=opening(source, cluster)) as controller:
        said: queue.Queue[object] = queue.Queue()
        stream = report(controller, said)
        said.put(hello(1))
        eventually(lambda: controller.record().heard.hello is not None)
        before = shown(controller)
        assert not refresh(controller)
        now[0] = NOW
        write_folder(tmp_path)
        assert refresh(controller)
        assert shown(controller) != before
        said.put(step(2, 0))
        eventually(lambda: controller.record().heard.step is not None)
        with channel_to(controller.port, controller.security) as anew:
            health = health_pb2_grpc.HealthStub(anew).Check(health_pb2.HealthCheckRequest(), timeout=30)
            assert health.status == health_pb2.HealthCheckResponse.SERVING
        said.put(None)
        assert list(stream) == []


@pytest.mark.parametrize("broken", ["tls.key", "tls.crt", "ca.crt"])
@pytest.mark.parametrize("content", [None, b"", b"garbage"])
def test_a_folder_that_is_half_renewed_is_refused_and_the_pair_in_use_stays(
    tmp_path: Path, broken: str, content: bytes | None
):
    write_folder(tmp_path)
    with served(JobRecord(KEY), opening=opening(FolderSource(tmp_path), a_cluster())) as controller:
        before = shown(controller)
        if content is None:
            (tmp_path / broken).unlink()
        else:
            (tmp_path / broken).write_bytes(content)
        with pytest.raises(CertificateError, match=r"expected tls\.crt, tls\.key and ca\.crt"):
            refresh(controller)
        assert shown(controller) == before


def test_a_folder_with_another_key_or_another_authority_is_refused(tmp_path: Path):
    write_folder(tmp_path)
    (tmp_path / "ca.crt").write_bytes(new_authority(NOW).certificate)
    with pytest.raises(CertificateError, match=r"expected ca\.crt to hold the authority"):
        asyncio.run(FolderSource(tmp_path).read())
    (tmp_path / "tls.key").write_bytes(new_authority(NOW).key)
    with pytest.raises(CertificateError, match=r"expected tls\.key to be the key"):
        asyncio.run(FolderSource(tmp_path).read())


def test_replicas_that_begin_together_end_with_one_authority():
    async def begin() -> set[bytes]:
        cluster = a_cluster()
        sources = [SecretSource(cluster, "thinwire", "tls", NAMES) for _ in range(5)]
        return {authorities for _, authorities in await asyncio.gather(*(source.read() for source in sources))}

    assert len(asyncio.run(begin())) == 1


def test_a_secret_that_somebody_spoilt_is_named_and_an_empty_one_is_filled():
    async def read(files: dict[str, bytes]) -> None:
        cluster = a_cluster()
        cluster.secrets[("thinwire", "tls")] = Kept("7", files)
        await SecretSource(cluster, "thinwire", "tls", NAMES).read()

    asyncio.run(read({}))
    with pytest.raises(CertificateError, match=r"Secret thinwire/tls: .* delete it and the controller makes a new one"):
        asyncio.run(read({"tls.crt": b"x"}))


def test_a_secret_that_changes_all_the_time_is_given_up():
    class Busy(FakeCluster):
        async def keep_secret(self, *_: object) -> bool:
            return False

    with pytest.raises(ClusterError, match="changed 5 times"):
        asyncio.run(SecretSource(Busy(), "thinwire", "tls", NAMES).read())


@pytest.mark.parametrize(("folder", "secret", "got"), [(None, "", "none"), (Path("/tls"), "tls", "both")])
def test_one_source_of_certificates_is_asked_for(folder: Path | None, secret: str, got: str):
    with pytest.raises(ValueError, match=f"expected either --tls-dir DIR or --tls-secret NAME, got {got}"):
        asyncio.run(open_security(None, own_namespace="thinwire", tls_dir=folder, tls_secret=secret))  # type: ignore[arg-type]


def test_health_can_be_watched_and_reflection_read_without_a_token(tmp_path: Path):
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    write_folder(tmp_path)
    with served(JobRecord(KEY), opening=opening(FolderSource(tmp_path), a_cluster())) as controller:
        watch = health_pb2_grpc.HealthStub(controller.channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = reflection_pb2_grpc.ServerReflectionStub(controller.channel).ServerReflectionInfo(iter([asked]))
        assert len(answer.list_services_response.service) == 4


def test_a_method_that_has_no_rule_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("thinwire.controller.security.guard._VERBS", {})
    write_folder(tmp_path)
    with served(JobRecord(KEY), opening=opening(FolderSource(tmp_path), a_cluster())) as controller:
        from thinwire.proto.thinwire.v1alpha1 import status_pb2 as pb

        for call in (
            lambda: controller.status.GetJob(pb.GetJobRequest(namespace="default", name="emoji")),
            lambda: next(controller.status.WatchJob(pb.WatchJobRequest(namespace="default", name="emoji"))),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                call()
            assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
        assert controller.security is not None
        assert controller.security.refusals.counts() == {"method without a rule": 2}


@pytest.mark.parametrize(
    ("size", "reason", "code"),
    [
        (3 << 20, "message too large", grpc.StatusCode.RESOURCE_EXHAUSTED),
        (100, "message cannot be read", grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_messages_that_no_service_is_to_see_are_refused_in_words_and_counted(
    tmp_path: Path, size: int, reason: str, code: grpc.StatusCode
):
    write_folder(tmp_path)
    with served(JobRecord(KEY), opening=opening(FolderSource(tmp_path), a_cluster())) as controller:
        shown = (("authorization", "Bearer pod"),)
        stream = controller.channel.stream_stream("/thinwire.v1alpha1.TelemetryService/Report")
        single = controller.channel.unary_unary("/thinwire.v1alpha1.StatusService/GetJob")
        for call in (
            lambda: list(stream(iter([b"\xff" * size]), metadata=shown)),
            lambda: single(b"\xff" * size, metadata=shown),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                call()
            assert refused.value.code() == code
            assert "expected a message of" in refused.value.details()
        assert controller.security is not None
        assert controller.security.refusals.counts() == {reason: 2}
