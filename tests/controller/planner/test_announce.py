"""A plan as status, gRPC and events tell it."""

from __future__ import annotations

from pathlib import Path

from tests.controller.manifest.manifests import manifest, sd3_folder
from thinwire.controller.job_record import JobKey, JobRecord
from thinwire.controller.kubernetes.conditions import Gang
from thinwire.controller.kubernetes.events import Moment, notes_between
from thinwire.controller.kubernetes.status import plan_of, record_of, status_of
from thinwire.controller.manifest.job import DiffusionJob
from thinwire.controller.planner import plan_job
from thinwire.controller.planner.announce import plan_message, plan_sentence
from thinwire.controller.planner.job_plan import plan_unseen
from thinwire.controller.status_service import job_status
from thinwire.proto.thinwire.v1alpha1 import status_pb2 as pb


def job_in(folder: Path) -> DiffusionJob:
    return DiffusionJob.from_raw(manifest({"spec.model.source": {"path": str(folder)}, "spec.gpusPerPod": 2}))


def plan_in(folder: Path) -> pb.JobPlan:
    job = job_in(sd3_folder(folder / "model"))
    return plan_message(job, plan_job(job))


def test_it_says_ranks_degrees_bytes_and_memory(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    assert [link.link_class for link in plan.links] == ["intra-node", "inter-node"]
    said = plan_sentence(plan).split("; ")
    assert said[0] == "4 ranks, 2 a node: ring 2 x ulysses 2"
    assert said[1].startswith("intra-node ")
    assert said[1].endswith(" bits1")
    assert " a step whole, " in said[1]
    assert said[3].startswith("bases ")


def test_of_a_model_that_nobody_here_can_see_it_says_what_the_manifest_does(tmp_path: Path) -> None:
    job = job_in(tmp_path)
    plan = plan_message(job, plan_unseen(job))
    assert plan_sentence(plan) == (
        "4 ranks, 2 a node: ring 2 x ulysses 2; "
        "bytes are known when the ranks have loaded the model, which only they can see"
    )


def test_a_status_gives_back_the_plan_that_was_put_in_it(tmp_path: Path) -> None:
    raw = manifest({"metadata.generation": 1, "metadata.namespace": "default"})
    for plan in (plan_in(tmp_path), plan_message(job_in(tmp_path), plan_unseen(job_in(tmp_path)))):
        status = status_of(JobRecord(JobKey("default", "job"), plan=plan), raw, Gang(), 0.0)
        assert plan_of(status) == plan
        known = record_of({**raw, "status": status}, DiffusionJob.from_raw(raw))
        assert job_status(known, 0.0).plan == plan


def test_it_is_told_once_and_again_when_it_is_another(tmp_path: Path) -> None:
    plan, record = plan_in(tmp_path), JobRecord(JobKey("default", "job"))
    other = pb.JobPlan(degrees="data 4", ranks=4, ranks_per_node=4)

    def told(before: pb.JobPlan | None, after: pb.JobPlan | None) -> list[str]:
        moments = (Moment(JobRecord(record.key, plan=one)) for one in (before, after))
        return [note.text for note in notes_between(*moments)]

    assert told(None, plan) == [plan_sentence(plan)]
    assert told(plan, plan) == told(None, None) == []
    assert told(plan, other) == ["4 ranks: data 4"]
