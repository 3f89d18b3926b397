"""What a plan becomes for those who ask about a job: one message for status and gRPC, one sentence for an event."""

from __future__ import annotations

from thinwire.controller.manifest.job import DiffusionJob
from thinwire.controller.manifest.summary import degrees
from thinwire.controller.planner.job_plan import JobPlan
from thinwire.controller.policy.explain import size
from thinwire.proto.thinwire.v1alpha1 import status_pb2 as pb


def plan_message(job: DiffusionJob, planned: JobPlan) -> pb.JobPlan:
    """Give a plan as the protocol says it."""
    return pb.JobPlan(
        degrees=degrees(job.parallelism),
        ranks=planned.layout.ranks,
        ranks_per_node=planned.layout.ranks_per_node,
        links=[
            pb.PlannedLink(
                link_class=link.link_class.value,
                ranks=link.ranks,
                collectives_per_step=link.operations_per_step,
                rates=[
                    pb.PlannedRate(rung=rung.rung, millibits=rung.millibits, bytes_per_step=rung.step_bytes)
                    for rung in link.rungs
                ],
            )
            for link in planned.links
        ],
        base_memory_bytes=planned.memory.base_bytes if planned.memory is not None else 0,
        model_unseen=planned.attention is None,
    )


def plan_sentence(plan: pb.JobPlan) -> str:
    """Say a plan to a person in one line."""
    ranks = f"{plan.ranks} rank{'' if plan.ranks == 1 else 's'}"
    where = ranks if plan.ranks_per_node >= plan.ranks else f"{ranks}, {plan.ranks_per_node} a node"
    said = [f"{where}: {plan.degrees}", *(_said(link) for link in plan.links)]
    if plan.model_unseen:
        said.append("bytes are known when the ranks have loaded the model, which only they can see")
    elif plan.links and plan.base_memory_bytes:
        said.append(f"bases {size(plan.base_memory_bytes)} a rank")
    return "; ".join(said)


def _said(link: pb.PlannedLink) -> str:
    first, last = link.rates[0], link.rates[-1]
    sent = f"{link.link_class} {size(first.bytes_per_step)} a step {'whole' if first.rung == 'off' else first.rung}"
    return sent if first is last or first.rung == last.rung else f"{sent}, {size(last.bytes_per_step)} {last.rung}"
