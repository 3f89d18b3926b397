from __future__ import annotations

from collections import Counter

import grpc
import pytest

from tests.controller.serving import KEY, served
from tests.controller.waiting import eventually
from thinwire.controller.job_record import JobRecord
from thinwire.controller.peers import host_of
from thinwire.controller.token_bucket import TokenBuckets
from thinwire.proto.thinwire.v1alpha1 import status_pb2 as pb


@pytest.mark.parametrize(
    ("peer", "host"),
    [("ipv4:10.0.0.7:40312", "ipv4:10.0.0.7"), ("ipv6:%5B::1%5D:40312", "ipv6:%5B::1%5D"), ("unix", "unix")],
)
def test_a_peer_is_its_host_whatever_port_it_calls_from(peer: str, host: str):
    assert host_of(peer) == host


def test_calls_above_a_peers_number_are_refused_counted_and_admitted_again_when_others_end(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("thinwire.controller.server.MOST_CALLS_OF_A_PEER", 3)
    asked = pb.WatchJobRequest(namespace="default", name="emoji")
    with served(JobRecord(KEY)) as controller:
        watches = [controller.status.WatchJob(asked) for _ in range(3)]
        for watch in watches:
            next(watch)
        with pytest.raises(grpc.RpcError) as refused:
            controller.status.GetJob(pb.GetJobRequest(namespace="default", name="emoji"))
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "holds 3 calls open of at most 3" in refused.value.details()
        watches[0].cancel()

        def admitted() -> bool:
            try:
                return bool(controller.status.GetJob(pb.GetJobRequest(namespace="default", name="emoji")).job.name)
            except grpc.RpcError:
                return False

        assert eventually(admitted)


def test_a_bucket_gives_its_burst_at_once_and_then_so_many_a_second():
    now = [100.0]
    buckets: TokenBuckets[str] = TokenBuckets(5, 2.0, clock=lambda: now[0])
    assert [buckets.take("a") for _ in range(7)] == [True] * 5 + [False] * 2
    assert buckets.take("b")
    now[0] += 1.0
    assert [buckets.take("a") for _ in range(3)] == [True, True, False]
    now[0] += 1e9
    assert Counter(buckets.take("a") for _ in range(9)) == {True: 5, False: 4}


def test_no_more_than_so_many_buckets_are_kept():
    buckets: TokenBuckets[int] = TokenBuckets(1, 0.0, most=10)
    for key in range(1000):
        assert buckets.take(key)
    assert len(buckets) == 10
