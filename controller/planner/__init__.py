"""What a manifest will do, known before a rank starts: pure functions over the job and its model's configuration.

layout    ranks, their groups, and what lies between the members of a group
traffic   what a rank gives to its peers in one step, tensor by tensor
rungs     what a frame of every rung takes on the wire
memory    what the bases of residuals take on a rank
job_plan  all of it together, with what is refused and why
announce  the same for status, gRPC and events
"""

from thinwire.controller.planner.job_plan import JobPlan, plan_job

__all__ = ["JobPlan", "plan_job"]
