"""The process group and xfuser's groups inside it: who this rank is, on which device, next to whom.

gloo carries CPU tensors and NCCL carries CUDA tensors. `Launch` is what the launcher says about this process;
`World` is what came of it, and `World.close` must run however the run ends.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

import torch
import torch.distributed as dist

from thinwire.proto.thinwire.v1alpha1 import run_spec_pb2 as pb
from thinwire.runtime.errors import BadInputError
from thinwire.runtime.roll_call import naming_absent_ranks
from thinwire.runtime.shims import import_xfuser


class LinkClass(StrEnum):
    """What lies between two ranks."""

    INTRA_NODE = "intra-node"
    INTER_NODE = "inter-node"


class PatchMode(StrEnum):
    """How ranks of a ring see each other's tokens."""

    NONE = "None"
    """Keys and values go round the ring."""
    GATHER = "Gather"
    """They are collected before attention begins."""
    DISTRIFUSION = "DistriFusion"
    """Those of the last step are used, while this step's are on their way."""


_PATCH_MODES = {
    pb.PATCH_MODE_UNSPECIFIED: PatchMode.NONE,
    pb.PATCH_MODE_NONE: PatchMode.NONE,
    pb.PATCH_MODE_GATHER: PatchMode.GATHER,
    pb.PATCH_MODE_DISTRIFUSION: PatchMode.DISTRIFUSION,
}


@dataclass(frozen=True, slots=True)
class Degrees:
    """How many ways each dimension of the work is split; their product is the world size."""

    ulysses: int = 1
    ring: int = 1
    pipefusion: int = 1
    cfg: int = 1
    data: int = 1
    patch_mode: PatchMode = PatchMode.NONE

    @classmethod
    def from_spec(cls, parallelism: pb.Parallelism) -> "Degrees":
        """Read the degrees of a RunSpec; 0 (absent in protobuf) means 1."""
        return cls(
            ulysses=parallelism.ulysses or 1,
            ring=parallelism.ring or 1,
            pipefusion=parallelism.pipefusion or 1,
            cfg=parallelism.cfg or 1,
            data=parallelism.data or 1,
            patch_mode=_PATCH_MODES[parallelism.patch_mode],
        )

    @property
    def sequence(self) -> int:
        """Ranks that share one sequence."""
        return self.ulysses * self.ring

    @property
    def is_stale(self) -> bool:
        """Whether ranks use what others computed a step before."""
        return self.pipefusion > 1 or self.patch_mode is PatchMode.DISTRIFUSION

    @property
    def product(self) -> int:
        """Ranks that these degrees need."""
        return self.sequence * self.pipefusion * self.cfg * self.data


@dataclass(frozen=True, slots=True)
class Launch:
    """What the launcher tells one process; torchrun says it in the environment."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    init_method: str = "env://"
    timeout_seconds: float = 600.0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Launch":
        """Read RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE; raises BadInputError where one is missing."""
        variables = os.environ if environment is None else environment
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        missing = [name for name in names if name not in variables]
        if missing:
            raise BadInputError(
                f"expected {', '.join(names)} in the environment, got none of {', '.join(missing)}: start with torchrun"
            )
        rank, world_size, local_rank, local_world_size = (int(variables[name]) for name in names)
        return cls(rank, world_size, local_rank, local_world_size)


@dataclass(frozen=True, slots=True)
class World:
    """This rank among the others."""

    launch: Launch
    degrees: Degrees
    device: torch.device
    control: dist.ProcessGroup
    """Every rank, over gloo on every machine: small agreements that must not touch the device."""

    @property
    def rank(self) -> int:
        """This rank."""
        return self.launch.rank

    @property
    def size(self) -> int:
        """Number of ranks."""
        return self.launch.world_size

    @property
    def replica(self) -> int:
        """Which group of ranks this one is in, of those that work on different prompts."""
        return self.rank // self.replica_size

    @property
    def replica_size(self) -> int:
        """Ranks that work on one prompt."""
        return self.size // self.degrees.data

    def picture_rank(self, replica: int) -> int:
        """Return the rank where xfuser leaves the picture of a replica: its last."""
        return (replica + 1) * self.replica_size - 1

    def link_class(self, ranks: list[int]) -> LinkClass:
        """Return what lies between these ranks: one node's links, or a network."""
        nodes = {rank // self.launch.local_world_size for rank in ranks}
        return LinkClass.INTRA_NODE if len(nodes) <= 1 else LinkClass.INTER_NODE

    def close(self) -> None:
        """Leave xfuser's groups and the process group. Safe after an error, and when there is nothing to leave."""
        if dist.is_initialized():
            dist.destroy_process_group()


def open_world(degrees: Degrees, launch: Launch) -> World:
    """Join the process group and lay xfuser's groups in it.

    Raises:
        BadInputError: the product of the degrees is not the world size.
        LostRankError: a rank has not come.
    """
    if degrees.product != launch.world_size:
        raise BadInputError(
            f"parallelism: expected degrees whose product is the {launch.world_size} ranks started, "
            f"got {degrees.product} ({degrees}); change the degrees or the number of ranks"
        )
    device = _device(launch)
    _share_cores(launch, device)
    import_xfuser()
    from xfuser.core.distributed import init_distributed_environment, initialize_model_parallel
    from xfuser.core.distributed.parallel_state import get_world_group

    with naming_absent_ranks(launch.timeout_seconds):
        dist.init_process_group(
            backend="nccl" if device.type == "cuda" else "gloo",
            init_method=launch.init_method,
            world_size=launch.world_size,
            rank=launch.rank,
            timeout=timedelta(seconds=launch.timeout_seconds),
        )
    try:
        init_distributed_environment(launch.world_size, launch.rank, launch.init_method, launch.local_rank)
        initialize_model_parallel(
            data_parallel_degree=degrees.data,
            classifier_free_guidance_degree=degrees.cfg,
            sequence_parallel_degree=degrees.sequence,
            ulysses_degree=degrees.ulysses,
            ring_degree=degrees.ring,
            pipeline_parallel_degree=degrees.pipefusion,
        )
    except BaseException:
        dist.destroy_process_group()
        raise
    return World(launch, degrees, device, get_world_group().cpu_group)


def _device(launch: Launch) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if launch.local_rank >= torch.cuda.device_count():
        raise BadInputError(
            f"expected a GPU for each of the {launch.local_world_size} ranks of this node, "
            f"got {torch.cuda.device_count()}: start fewer ranks a node"
        )
    device = torch.device("cuda", launch.local_rank)
    torch.cuda.set_device(device)
    return device


def _share_cores(launch: Launch, device: torch.device) -> None:
    """Give each rank of a node its share of the cores: more threads than cores make every exchange wait."""
    if device.type == "cpu":
        cores = len(os.sched_getaffinity(0))
        torch.set_num_threads(max(1, cores // launch.local_world_size))
