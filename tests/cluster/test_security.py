"""Who may report and read, by a real API server's word: real tokens, real pods, real RBAC, real TLS."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.cluster.control_plane import ControlPlane
from tests.cluster.jobs_api import JobsApi
from tests.cluster.people import People, expired
from tests.cluster.secured import HOME, JOBS, SECRET, secured, settled
from tests.controller.messages import hello, step
from tests.controller.serving import KEY, Served, channel_to
from tests.controller.waiting import eventually
from thinwire.controller.job_record import JobKey, JobRecord
from thinwire.controller.plan import State
from thinwire.controller.security.access import TELEMETRY_AUDIENCE
from thinwire.controller.security.open import AUTHORITY_CONFIG_MAP
from thinwire.proto.thinwire.v1alpha1 import status_pb2 as pb
from thinwire.proto.thinwire.v1alpha1 import telemetry_pb2
from thinwire.proto.thinwire.v1alpha1.status_pb2_grpc import StatusServiceStub
from thinwire.proto.thinwire.v1alpha1.telemetry_pb2_grpc import TelemetryServiceStub

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def people(jobs: JobsApi) -> People:
    return settled(jobs)


@pytest.fixture(scope="module")
def controller(plane: ControlPlane, people: People) -> Iterator[Served]:
    records = (JobRecord(KEY, state=State.RUNNING), JobRecord(JobKey("other", "emoji"), state=State.RUNNING))
    with secured(plane, people, *records) as running:
        yield running


@dataclass(frozen=True)
class Rank0:
    """Speaks as one pod does, with whatever token."""

    controller: Served
    token: str

    def says(self, *requests: telemetry_pb2.ReportRequest) -> grpc.StatusCode:
        said: queue.Queue[telemetry_pb2.ReportRequest | None] = queue.Queue()
        for request in (*requests, None):
            said.put(request)
        call = TelemetryServiceStub(self.controller.channel).Report(iter(said.get, None), metadata=bearer(self.token))
        with contextlib.suppress(grpc.RpcError):
            list(call)
        return call.code()


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),) if token else ()


def pod_token(people: People, namespace: str, pod: str, job_name: str = "", attempt: int = 1) -> str:
    uid = people.pod(namespace, pod, job_name, attempt)
    return people.token(namespace, "default", audience=TELEMETRY_AUDIENCE, pod=(pod, uid))


def test_a_pod_reports_for_its_own_job_over_tls(controller: Served, people: People):
    rank = Rank0(controller, pod_token(people, "default", "emoji-1-0", "emoji"))
    assert rank.says(hello(1), *(step(number + 2, number) for number in range(3))) == grpc.StatusCode.OK
    assert controller.record().heard.step is not None
    assert controller.record().samples[-1].job_step == 2


def test_nobody_else_reports_and_the_job_does_not_move(controller: Served, people: People, plane: ControlPlane):
    own = pod_token(people, "default", "emoji-1-1", "emoji")
    uid = people.pod("default", "emoji-1-1", "emoji")
    bound = ("emoji-1-1", uid)
    key = plane.certificate.parents[1] / "service-accounts.key"
    shown = {
        "no token": ("", grpc.StatusCode.UNAUTHENTICATED),
        "a word": ("word", grpc.StatusCode.UNAUTHENTICATED),
        "expired": (expired(own, key), grpc.StatusCode.UNAUTHENTICATED),
        "signature cut": (own[:-8], grpc.StatusCode.UNAUTHENTICATED),
        "the API server's audience": (people.token("default", "default", pod=bound), grpc.StatusCode.UNAUTHENTICATED),
        "another audience": (
            people.token("default", "default", audience="vault", pod=bound),
            grpc.StatusCode.UNAUTHENTICATED,
        ),
        "bound to no pod": (
            people.token("default", "default", audience=TELEMETRY_AUDIENCE),
            grpc.StatusCode.PERMISSION_DENIED,
        ),
        "pod of no job": (pod_token(people, "default", "stray"), grpc.StatusCode.PERMISSION_DENIED),
        "pod of another job": (pod_token(people, "default", "cat-1-0", "cat"), grpc.StatusCode.PERMISSION_DENIED),
        "pod of another attempt": (
            pod_token(people, "default", "emoji-9-0", "emoji", attempt=9),
            grpc.StatusCode.PERMISSION_DENIED,
        ),
        "pod of another namespace": (
            pod_token(people, "other", "emoji-1-0", "emoji"),
            grpc.StatusCode.PERMISSION_DENIED,
        ),
    }
    before = controller.record()
    codes = {who: Rank0(controller, token).says(hello(500), step(501, 20)) for who, (token, _) in shown.items()}
    assert codes == {who: code for who, (_, code) in shown.items()}
    assert controller.record() == before
    assert controller.security is not None
    counts = controller.security.refusals.counts()
    assert counts["hello of another job"] >= 3
    assert counts["token not valid"] >= 5


def test_the_token_of_a_pod_that_is_gone_does_not_report(controller: Served, people: People):
    token = pod_token(people, "default", "emoji-1-7", "emoji")
    people.delete("/api/v1/namespaces/default/pods/emoji-1-7")
    assert Rank0(controller, token).says(hello(700)) in (
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
    )


def asked(controller: Served, token: str) -> dict[str, tuple[grpc.StatusCode, str]]:
    """What every question of the status service is answered with."""
    stub, named = StatusServiceStub(controller.channel), {"namespace": "default", "name": "emoji"}
    questions: dict[str, Callable[[], object]] = {
        "get": lambda: stub.GetJob(pb.GetJobRequest(**named), metadata=bearer(token)),
        "list": lambda: stub.ListJobs(pb.ListJobsRequest(namespace="default"), metadata=bearer(token)),
        "list all": lambda: stub.ListJobs(pb.ListJobsRequest(), metadata=bearer(token)),
        "watch": lambda: next(stub.WatchJob(pb.WatchJobRequest(**named), metadata=bearer(token))),
        "history": lambda: stub.GetHistory(pb.GetHistoryRequest(**named), metadata=bearer(token)),
        "other": lambda: stub.GetJob(pb.GetJobRequest(namespace="other", name="emoji"), metadata=bearer(token)),
        "unknown": lambda: stub.GetJob(pb.GetJobRequest(namespace="default", name="none"), metadata=bearer(token)),
    }
    return {name: _answer(question) for name, question in questions.items()}


def _answer(question: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    try:
        question()
    except grpc.RpcError as error:
        return error.code(), error.details()
    return grpc.StatusCode.OK, ""


OK, DENIED, UNKNOWN = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("account", "verbs", "everywhere", "allowed"),
    [
        ("nothing", [], False, set()),
        ("getter", ["get"], False, {"get", "history", "unknown"}),
        ("watcher", ["get", "list", "watch"], False, {"get", "list", "watch", "history", "unknown"}),
        (
            "viewer",
            ["get", "list", "watch"],
            True,
            {"get", "list", "list all", "watch", "history", "other", "unknown"},
        ),
    ],
)
def test_a_person_reads_what_rbac_lets_him_read(
    controller: Served, people: People, account: str, verbs: list[str], everywhere: bool, allowed: set[str]
):
    people.account("default", account)
    if verbs:
        people.may("default", account, [{**JOBS, "verbs": verbs}], everywhere=everywhere)
    token = people.token("default", account)
    answers = asked(controller, token)
    assert {name for name, (code, _) in answers.items() if code != DENIED} == allowed
    if "unknown" in allowed:
        assert answers["unknown"][0] == UNKNOWN
        assert "default/emoji" not in answers["unknown"][1]
    for name in answers.keys() - allowed:
        said = answers[name][1]
        assert f"system:serviceaccount:default:{account} may not" in said
        assert "diffusionjobs.thinwire.dev" in said


@pytest.mark.parametrize("kind", ["none", "word", "telemetry"])
def test_without_a_token_of_the_api_servers_audience_nobody_reads(controller: Served, people: People, kind: str):
    tokens = {"none": "", "word": "word", "telemetry": pod_token(people, "default", "emoji-1-2", "emoji")}
    answers = asked(controller, tokens[kind])
    assert {code for code, _ in answers.values()} == {grpc.StatusCode.UNAUTHENTICATED}
    assert all("kubectl create token" in said for _, said in answers.values())


def test_a_right_that_was_taken_away_ends_a_watch(controller: Served, people: People, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("thinwire.controller.security.access.KNOWN_SECONDS", 0.2)
    people.account("default", "leaver")
    people.may("default", "leaver", [{**JOBS, "verbs": ["watch", "list", "get"]}])
    watch = StatusServiceStub(controller.channel).WatchJob(
        pb.WatchJobRequest(namespace="default", name="emoji"), metadata=bearer(people.token("default", "leaver"))
    )
    assert next(watch).job.name == "emoji"
    people.delete("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings/default-leaver-1")

    def refused() -> str:
        controller.inside(
            lambda: controller.store.update(KEY, lambda record: replace(record, restarts=record.restarts))
        )
        try:
            next(watch)
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
        return ""

    assert "PERMISSION_DENIED: system:serviceaccount:default:leaver may not watch" in eventually(refused)


def test_health_is_open_to_all_who_trust_the_published_authorities(controller: Served, people: People):
    published = people.api.call("GET", f"/api/v1/namespaces/{HOME}/configmaps/{AUTHORITY_CONFIG_MAP}")
    authorities = published["data"]["ca.crt"].encode()
    assert controller.security is not None
    assert authorities == controller.security.authorities
    health = health_pb2_grpc.HealthStub(controller.channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
    assert health.status == health_pb2.HealthCheckResponse.SERVING


def test_plain_text_is_not_answered(controller: Served):
    with channel_to(controller.port, None) as channel, pytest.raises(grpc.RpcError) as error:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE


def test_replicas_share_one_secret(plane: ControlPlane, people: People):
    secret = f"/api/v1/namespaces/{HOME}/secrets/{SECRET}"
    with secured(plane, people) as first, secured(plane, people) as second:
        assert first.security is not None
        assert second.security is not None
        assert first.security.authorities == second.security.authorities
        assert set(people.api.call("GET", secret)["data"]) >= {"ca.crt", "tls.crt", "tls.key"}


def test_the_controllers_account_can_list_no_secrets(plane: ControlPlane, people: People):
    token = people.token(HOME, "thinwire-controller")
    review = {"spec": {"resourceAttributes": {"resource": "secrets", "verb": "list", "namespace": HOME}}}
    with plane.api_client() as api_client:
        api_client.configuration.api_key = {"authorization": f"Bearer {token}"}
        answer = JobsApi(api_client).call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
    assert answer["status"]["allowed"] is False
