"""Which ranks work together: xfuser lays its dimensions over the ranks, the sequence's innermost, data's outermost."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from thinwire.controller.manifest.job import DiffusionJob, Parallelism


class LinkClass(StrEnum):
    """What lies between two ranks: the names of the runtime's own."""

    INTRA_NODE = "intra-node"
    INTER_NODE = "inter-node"


class Dimension(StrEnum):
    """A way to share the work, from the innermost (neighbouring ranks) outwards."""

    ULYSSES = "ulysses"
    RING = "ring"
    PIPEFUSION = "pipefusion"
    CFG = "cfg"
    DATA = "data"


@dataclass(frozen=True, slots=True)
class Group:
    """Ranks that exchange with one another, and what joins them."""

    ranks: tuple[int, ...]
    link_class: LinkClass


@dataclass(frozen=True, slots=True)
class Layout:
    """All ranks of a job: groups of every dimension that is split; a rank is in one group of each."""

    ranks: int
    ranks_per_node: int
    groups: dict[Dimension, tuple[Group, ...]]

    def group_of(self, dimension: Dimension, rank: int) -> Group | None:
        """Return a rank's group, None where the dimension is not split."""
        return next((group for group in self.groups.get(dimension, ()) if rank in group.ranks), None)


def layout_of(job: DiffusionJob) -> Layout:
    """Return the groups of a job in a cluster; `thinwire run` has all its ranks on one machine."""
    return lay_out(job.parallelism, job.gpus_per_pod)


def lay_out(parallelism: Parallelism, ranks_per_node: int) -> Layout:
    """Return the groups of these degrees over nodes of so many ranks."""
    degrees = {dimension: getattr(parallelism, dimension.value) for dimension in Dimension}
    total = 1
    for degree in degrees.values():
        total *= degree
    groups: dict[Dimension, tuple[Group, ...]] = {}
    stride = 1
    for dimension, degree in degrees.items():
        if degree > 1:
            groups[dimension] = tuple(
                _group(tuple(first + stride * index for index in range(degree)), ranks_per_node)
                for first in range(total)
                if first // stride % degree == 0
            )
        stride *= degree
    return Layout(total, ranks_per_node, groups)


def _group(ranks: tuple[int, ...], ranks_per_node: int) -> Group:
    one_node = len({rank // ranks_per_node for rank in ranks}) == 1
    return Group(ranks, LinkClass.INTRA_NODE if one_node else LinkClass.INTER_NODE)
