"""Rank 0's word to the others, apart from the step path; and how long any rank waits for any other."""

from datetime import timedelta

import torch.distributed as dist
from torch.distributed import distributed_c10d

from thinwire.runtime.roll_call import naming_lost_ranks
from thinwire.runtime.run import Verdict


def tell(verdict: Verdict) -> Verdict:
    """Return rank 0's `verdict` on every rank; alone in the world, one's own.

    Raises:
        LostRankError: a rank is gone or silent.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return verdict
    box = [verdict]
    with naming_lost_ranks():
        dist.broadcast_object_list(box, src=0)
    return box[0]


def limit_waiting(seconds: float) -> None:
    """Have every process group that is made from now on give up a silent peer after `seconds`.

    A group made with `new_group` takes torch's default of 30 minutes (NCCL: 10), whatever its parent was given, and
    xfuser makes all of its groups so: a rank that is stopped would hold the others for that long.
    """
    distributed_c10d.default_pg_timeout = timedelta(seconds=seconds)
    distributed_c10d.default_pg_nccl_timeout = timedelta(seconds=seconds)  # type: ignore[attr-defined]
