"""PipeFusion: exact while its stages go in step, upstream's own stale picture afterwards, coded or not."""

from pathlib import Path

import numpy
import pytest

from tests.harness.sessions import FIXED, FLUX, OFF, SD3, Job, pictures_of, run_job
from tests.runtime.exchange.test_exactness import TOLERANCE, difference
from thinwire.runtime.picture import Pixels

pytestmark = pytest.mark.distributed


def picture(job: Job) -> Pixels:
    (made,) = pictures_of(run_job(job))
    return made


def jobs(tiny_sd3: Path, tiny_flux: Path, pipeline: str) -> Path:
    return tiny_flux if pipeline == FLUX else tiny_sd3


@pytest.mark.parametrize("pipeline", [SD3, FLUX])
@pytest.mark.parametrize(("mode", "millibits"), [(OFF, 8000), (FIXED, 32_000)], ids=["off", "without codec"])
def test_stages_that_go_in_step_are_exact(
    tiny_sd3: Path, tiny_flux: Path, pipeline: str, mode: int, millibits: int
) -> None:
    folder = jobs(tiny_sd3, tiny_flux, pipeline)
    job = Job(folder, pipeline, ring=1, pipefusion=2, mode=mode, millibits=millibits, warmup_steps=4)
    assert difference(job) <= TOLERANCE


@pytest.mark.parametrize("pipeline", [SD3, FLUX])
def test_what_is_stale_is_upstream_s_own(tiny_sd3: Path, tiny_flux: Path, pipeline: str) -> None:
    folder = jobs(tiny_sd3, tiny_flux, pipeline)
    stale = Job(folder, pipeline, ring=1, pipefusion=2, mode=OFF, steps=6)
    upstream_s = picture(stale)
    assert difference(stale) > 10 * TOLERANCE
    without_codec = Job(folder, pipeline, ring=1, pipefusion=2, mode=FIXED, millibits=32_000, steps=6)
    assert numpy.abs(picture(without_codec) - upstream_s).max() <= TOLERANCE


def test_eight_bits_differ_by_what_eight_bits_explain(tiny_sd3: Path) -> None:
    upstream_s = picture(Job(tiny_sd3, SD3, ring=1, pipefusion=2, mode=OFF, steps=8))
    seen = run_job(Job(tiny_sd3, SD3, ring=1, pipefusion=2, millibits=8000, steps=8))
    (coded,) = pictures_of(seen)
    assert 0 < numpy.abs(coded - upstream_s).max() < 0.03
    facts = seen[0].steps
    assert [step.step for step in facts] == list(range(8))
    assert [step.key_frame for step in facts] == [True] + [False] * 7
    assert {window.operation for window in facts[-2].windows} == {"pipefusion.send"}
    assert facts[-1].frames_refused == facts[-1].base_mismatches == facts[-1].key_frames_forced == 0
    assert facts[-1].bytes_sent < 0.5 * facts[-1].bytes_uncompressed
