import pytest
import torch

from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import Parallelism
from thinwire.runtime.errors import BadInputError
from thinwire.runtime.parallel import Degrees, Launch, LinkClass, World


def world(local_world_size: int) -> World:
    launch = Launch(0, 8, 0, local_world_size)
    return World(launch, Degrees(ring=8), torch.device("cpu"), control=None)  # type: ignore[arg-type]


def test_ranks_of_one_node_are_joined_by_its_links() -> None:
    assert world(4).link_class([0, 1, 3]) is LinkClass.INTRA_NODE
    assert world(4).link_class([0, 4]) is LinkClass.INTER_NODE
    assert world(8).link_class([0, 7]) is LinkClass.INTRA_NODE


def test_absent_degrees_are_one() -> None:
    degrees = Degrees.from_spec(Parallelism(ring=2, ulysses=3))
    assert (degrees.sequence, degrees.product, degrees.cfg) == (6, 6, 1)


def test_the_launcher_s_environment_is_read() -> None:
    environment = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    launch = Launch.from_environment(environment)
    assert (launch.rank, launch.world_size, launch.local_rank, launch.local_world_size) == (3, 4, 1, 2)


def test_a_missing_variable_is_named() -> None:
    with pytest.raises(BadInputError, match="LOCAL_RANK"):
        Launch.from_environment({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"})
