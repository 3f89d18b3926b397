from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from dataclasses import replace

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.controller.messages import hello, step
from tests.controller.serving import KEY, Served, served
from thinwire.controller.ingest import greet, take
from thinwire.controller.job_record import HISTORY_SAMPLES, JobKey, JobRecord
from thinwire.controller.job_store import JobStore
from thinwire.controller.plan import State
from thinwire.controller.server import PortTakenError, serve
from thinwire.controller.status_service import job_status
from thinwire.proto.thinwire.v1alpha1 import status_pb2 as pb


def a_job_after(steps: int) -> JobRecord:
    record = greet(JobRecord(KEY, state=State.RUNNING), hello(1), 100.0)
    for number in range(steps):
        record = take(record, step(number + 2, number), 101.0).record
    return record


@pytest.fixture
def controller() -> Iterator[Served]:
    with served(a_job_after(10), JobRecord(JobKey("other", "second"))) as running:
        yield running


def test_a_job_is_shown_as_its_ranks_reported_it(controller: Served):
    job = controller.status.GetJob(pb.GetJobRequest(namespace="default", name="emoji")).job
    assert (job.state, job.step, job.steps, job.job_step) == (pb.JOB_STATE_RUNNING, 10, 28, 9)
    assert job.links[0].throughput_bytes_per_second == pytest.approx(50e6, rel=0.1)
    assert job.bytes_uncompressed == 60_000_000
    assert job.silence_seconds > 0


def test_an_unknown_job_is_answered_with_the_known_ones(controller: Served):
    with pytest.raises(grpc.RpcError) as refused:
        controller.status.GetJob(pb.GetJobRequest(namespace="default", name="nope"))
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    assert "default/emoji, other/second" in refused.value.details()


def test_jobs_are_listed_by_namespace(controller: Served):
    def names(namespace: str) -> list[str]:
        return [job.name for job in controller.status.ListJobs(pb.ListJobsRequest(namespace=namespace)).jobs]

    assert names("") == ["emoji", "second"]
    assert names("other") == ["second"]
    assert names("none") == []


def test_history_has_one_sample_per_step_from_where_it_was_asked(controller: Served):
    samples = controller.status.GetHistory(
        pb.GetHistoryRequest(namespace="default", name="emoji", from_job_step=7)
    ).samples
    assert [sample.job_step for sample in samples] == [7, 8, 9]


def test_the_share_hidden_behind_computing_is_told_by_status_and_history():
    record = take(a_job_after(3), step(50, 3, hidden_share=0.75), 101.0).record
    assert job_status(record, 101.0).links[0].hidden_share == pytest.approx(0.75)
    assert [sample.links[0].hidden_share for sample in record.samples] == pytest.approx([0, 0, 0, 0.75])


@pytest.mark.parametrize("share", [-0.1, 1.5, math.nan, math.inf])
def test_a_step_that_hides_more_than_it_took_moves_nothing_and_is_counted(share: float):
    record = take(a_job_after(3), step(50, 3, hidden_share=share), 101.0).record
    assert dict(record.refused) == {"window hides more than it took": 1}
    assert len(record.samples) == 3


def test_history_is_bounded():
    record = a_job_after(2)
    full = replace(record, samples=(record.samples[0],) * HISTORY_SAMPLES)
    assert len(take(full, step(50, 20), 0.0).record.samples) == HISTORY_SAMPLES


def test_a_watch_shows_changes_and_ends_with_the_job(controller: Served):
    watch = controller.status.WatchJob(pb.WatchJobRequest(namespace="default", name="emoji"))
    assert next(watch).job.state == pb.JOB_STATE_RUNNING
    ended = replace(a_job_after(10), state=State.SUCCEEDED)
    controller.inside(lambda: controller.store.put(ended))
    assert [response.job.state for response in watch] == [pb.JOB_STATE_SUCCEEDED]


def test_health_and_reflection_answer(controller: Served):
    health = health_pb2_grpc.HealthStub(controller.channel).Check(health_pb2.HealthCheckRequest())
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = reflection_pb2_grpc.ServerReflectionStub(controller.channel).ServerReflectionInfo(iter([asked]))
    services = {service.name.rpartition(".")[2] for service in answer.list_services_response.service}
    assert services == {"TelemetryService", "StatusService", "Health", "ServerReflection"}


def test_a_port_that_is_taken_is_refused_in_a_sentence(controller: Served):
    with pytest.raises(PortTakenError, match=f"port {controller.port} of 127.0.0.1 is taken"):
        asyncio.run(serve(JobStore(), "127.0.0.1", controller.port))
