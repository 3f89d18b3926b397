"""The two guidance branches on ranks of their own: exact where nothing is lost, and the same numbers on both sides."""

from contextlib import AbstractContextManager
from pathlib import Path
from unittest.mock import patch

import numpy
import pytest
import torch

from tests.harness.sessions import FIXED, OFF, SD3, Job, assert_bases_agree, pictures_of, run_job
from tests.runtime.exchange.test_exactness import TOLERANCE, difference, plain_picture
from thinwire.runtime.exchange.guidance import GuidanceExchange
from thinwire.runtime.parallel import Launch

pytestmark = pytest.mark.distributed


@pytest.mark.parametrize(("ulysses", "ring"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize(("mode", "warmup_steps"), [(OFF, 1), (FIXED, 99)], ids=["off", "raw"])
def test_branches_of_their_own_are_exact(tiny_sd3: Path, ulysses: int, ring: int, mode: int, warmup_steps: int) -> None:
    job = Job(tiny_sd3, SD3, ulysses, ring, cfg=2, mode=mode, millibits=8000, warmup_steps=warmup_steps)
    assert difference(job) <= TOLERANCE


def test_branches_in_eight_bits_differ_by_what_eight_bits_explain(tiny_sd3: Path) -> None:
    job = Job(tiny_sd3, SD3, ring=1, cfg=2, millibits=8000, steps=8)
    seen = run_job(job)
    assert_bases_agree(seen)
    (picture,) = pictures_of(seen)
    lost = numpy.abs(picture - plain_picture(tiny_sd3, SD3, 8)).max()
    assert 0 < lost < 0.02
    last = seen[0].steps[-1]
    assert [window.operation for window in last.windows] == ["guidance.all_gather"]
    assert last.bytes_sent < 0.45 * last.bytes_uncompressed


def test_branches_never_travel_in_fewer_than_eight_bits(tiny_sd3: Path) -> None:
    coarse, fine = (run_job(Job(tiny_sd3, SD3, ring=1, cfg=2, millibits=rate))[0].steps[-1] for rate in (1000, 8000))
    assert coarse.rates == fine.rates
    assert coarse.bytes_sent == fine.bytes_sent


def both_see_the_same(launch: Launch) -> AbstractContextManager[object]:
    """Compare over the control group what the two ranks got from every gather."""
    all_gather = GuidanceExchange.all_gather

    def comparing(self: GuidanceExchange, *arguments: object, **options: object) -> object:
        branches = all_gather(self, *arguments, **options)
        mine = torch.stack(branches).contiguous()
        theirs = mine.clone()
        torch.distributed.broadcast(theirs, src=0, group=self.neighbours.group)
        assert torch.equal(mine, theirs)
        return branches

    return patch.object(GuidanceExchange, "all_gather", comparing)


def test_both_ranks_go_on_with_the_same_branches(tiny_sd3: Path) -> None:
    run_job(Job(tiny_sd3, SD3, ring=1, cfg=2, millibits=2000, steps=6), meddle=both_see_the_same)


def test_upstream_s_guidance_group_is_given_back(tiny_sd3: Path) -> None:
    run_job(Job(tiny_sd3, SD3, ring=1, cfg=2, steps=1), meddle=GivenBack)


class GivenBack:
    """Checks on the way out that the group has its own method again."""

    def __init__(self, launch: Launch) -> None:
        from thinwire.runtime.parallel import World

        close = World.close

        def checking_close(world: World) -> None:
            from thinwire.runtime.exchange.upstream import guidance_coordinator

            assert "all_gather" not in vars(guidance_coordinator())
            close(world)

        self.patch = patch.object(World, "close", checking_close)

    def __enter__(self) -> None:
        self.patch.__enter__()

    def __exit__(self, *error: object) -> None:
        self.patch.__exit__(*error)
