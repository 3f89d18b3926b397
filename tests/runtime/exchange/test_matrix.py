"""Family x strategy x 2 and 4 ranks: what is exact stays exact, what is stale is upstream's own, what is coded differs
by what eight bits explain, and the bases at both ends of every stream are the same.

A case runs three jobs: mode Off, without codec through the exchange of ours, and in eight bits with every base checked
after every other step.
"""

from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy
import pytest

from tests.harness.models import save_tiny_flux, save_tiny_sd3
from tests.harness.sessions import ADAPTIVE, DISTRIFUSION, FLUX, GATHER, OFF, SD3, Job, pictures_of, run_job
from tests.runtime.exchange.test_agreement import RATES
from tests.runtime.exchange.test_exactness import TOLERANCE, plain_picture
from thinwire.runtime.exchange import boundary, moment
from thinwire.runtime.facts import Directive
from thinwire.runtime.parallel import Launch
from thinwire.runtime.picture import Pixels

pytestmark = pytest.mark.distributed
EXPLAINED = 0.03
"""What eight bits may change of a pixel in 0 to 1, in six steps of a random model."""

EXACT: dict[str, dict[str, int]] = {
    "ring 2": {"ring": 2},
    "ulysses 2": {"ulysses": 2},
    "gather 2": {"ring": 2, "patch_mode": GATHER},
    "ring 4": {"ring": 4},
    "ulysses 2 x ring 2": {"ulysses": 2, "ring": 2},
    "data 2 x ulysses 2": {"data": 2, "ulysses": 2},
}
STALE: dict[str, dict[str, int]] = {
    "PipeFusion 2": {"pipefusion": 2},
    "PipeFusion 4": {"pipefusion": 4},
    "PipeFusion 2 x ulysses 2": {"pipefusion": 2, "ulysses": 2},
    "PipeFusion 2 x ring 2": {"pipefusion": 2, "ring": 2},
    "DistriFusion 2": {"ring": 2, "patch_mode": DISTRIFUSION},
    "DistriFusion 2 x ulysses 2": {"ring": 2, "ulysses": 2, "patch_mode": DISTRIFUSION},
}
GUIDED: dict[str, dict[str, int]] = {
    "cfg 2": {"cfg": 2},
    "cfg 2 x ulysses 2": {"cfg": 2, "ulysses": 2},
    "cfg 2 x ring 2": {"cfg": 2, "ring": 2},
}
GUIDED_STALE: dict[str, dict[str, int]] = {
    "cfg 2 x PipeFusion 2": {"cfg": 2, "pipefusion": 2},
    "cfg 2 x DistriFusion 2": {"cfg": 2, "ring": 2, "patch_mode": DISTRIFUSION},
}
CASES = [
    pytest.param(family, degrees, is_stale, id=f"{family}, {name}")
    for family in (SD3, FLUX)
    for named, is_stale in ((EXACT, False), (STALE, True), (GUIDED, False), (GUIDED_STALE, True))
    for name, degrees in named.items()
    if family == SD3 or "cfg" not in degrees
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models of four layers, so that four stages have one each."""
    root = tmp_path_factory.mktemp("matrix")
    return {SD3: save_tiny_sd3(root / "sd3", layers=4), FLUX: save_tiny_flux(root / "flux", joint=2, single=2)}


def checked_every_other_step(launch: Launch) -> AbstractContextManager[object]:
    """Have the ranks compare the checksums of all bases after every second step instead of every eighth."""
    return _Both(patch.object(moment, "CHECKSUM_EVERY_STEPS", 2), patch.object(boundary, "CHECKSUM_EVERY_STEPS", 2))


class _Both:
    def __init__(self, *managers: Any) -> None:
        self.managers = managers

    def __enter__(self) -> None:
        for manager in self.managers:
            manager.__enter__()

    def __exit__(self, *error: object) -> None:
        for manager in self.managers:
            manager.__exit__(*error)


@cache
def pictured(job: Job) -> Pixels:
    return pictures_of(run_job(job))[0]


@pytest.mark.parametrize(("family", "degrees", "is_stale"), CASES)
def test_every_strategy_of_every_family(
    folders: dict[str, Path], family: str, degrees: dict[str, int], is_stale: bool
) -> None:
    job = Job(folders[family], family, **{"ring": 1} | degrees, mode=OFF, steps=6)
    plain, off = plain_picture(job.folder, family, job.steps), pictured(job)
    assert (numpy.abs(off - plain).max() > TOLERANCE) == is_stale
    without_codec = pictured(replace(job, mode=ADAPTIVE, millibits=32_000))
    assert numpy.abs(without_codec - off).max() <= TOLERANCE

    seen = run_job(replace(job, mode=ADAPTIVE, millibits=8000), meddle=checked_every_other_step)
    assert 0 < numpy.abs(pictures_of(seen)[0] - off).max() <= EXPLAINED
    steps = seen[0].steps
    assert [step.step for step in steps] == list(range(job.steps))
    assert steps[-1].base_mismatches == steps[-1].frames_refused == steps[-1].key_frames_forced == 0
    assert steps[-1].bytes_sent < 0.6 * steps[-1].bytes_uncompressed
    assert steps[-1].bytes_sent == steps[-1].bytes_counted


@pytest.mark.parametrize(
    "degrees",
    [
        pytest.param({"ulysses": 2, "ring": 2}, id="ulysses x ring"),
        pytest.param({"pipefusion": 2, "ulysses": 2}, id="PipeFusion x ulysses"),
        pytest.param({"pipefusion": 2, "ring": 2}, id="PipeFusion x ring"),
        pytest.param({"cfg": 2, "ring": 2, "patch_mode": DISTRIFUSION}, id="cfg x DistriFusion"),
        pytest.param({"cfg": 2, "pipefusion": 2}, id="cfg x PipeFusion"),
        pytest.param({"cfg": 2, "ring": 2, "patch_mode": GATHER}, id="cfg x gather"),
        pytest.param({"ulysses": 2, "ring": 2, "patch_mode": DISTRIFUSION}, id="ulysses x DistriFusion"),
        pytest.param({"data": 2, "ring": 2}, id="data x ring"),
        pytest.param({"cfg": 2, "pipefusion": 2, "ulysses": 2}, id="cfg x PipeFusion x ulysses"),
    ],
)
def test_strategies_mixed_and_a_new_rate_at_every_step_leave_the_bases_right(
    folders: dict[str, Path], degrees: dict[str, int]
) -> None:
    directives = tuple(Directive(number + 1, {"intra-node": RATES[number * 3 % len(RATES)]}) for number in range(28))
    job = Job(folders[SD3], SD3, **{"ring": 1} | degrees, mode=ADAPTIVE, steps=28, directives=directives)
    job = replace(job, prompts=("a red heart", "a pizza")[: job.data])
    steps = run_job(job, meddle=checked_every_other_step)[0].steps
    assert [step.step for step in steps] == list(range(28))
    assert steps[-1].epoch >= 24
    assert len({step.rates["intra-node"] for step in steps}) > 4
    assert steps[-1].base_mismatches == steps[-1].frames_refused == 0
