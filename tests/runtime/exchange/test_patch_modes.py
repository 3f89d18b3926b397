"""Patch modes: a gather is exact; DistriFusion is stale exactly as it is defined, coded or not."""

from pathlib import Path

import numpy
import pytest

from tests.harness.sessions import DISTRIFUSION, FIXED, FLUX, GATHER, OFF, SD3, Job, pictures_of, run_job
from tests.runtime.exchange.distrifusion_reference import stale_picture
from tests.runtime.exchange.test_exactness import TOLERANCE, difference

pytestmark = pytest.mark.distributed


def folder_of(tiny_sd3: Path, tiny_flux: Path, pipeline: str) -> Path:
    return tiny_flux if pipeline == FLUX else tiny_sd3


@pytest.mark.parametrize("pipeline", [SD3, FLUX])
@pytest.mark.parametrize(("mode", "warmup_steps"), [(OFF, 1), (FIXED, 99)], ids=["off", "raw"])
def test_a_gather_is_exact(tiny_sd3: Path, tiny_flux: Path, pipeline: str, mode: int, warmup_steps: int) -> None:
    folder = folder_of(tiny_sd3, tiny_flux, pipeline)
    job = Job(folder, pipeline, 2, 2, patch_mode=GATHER, mode=mode, millibits=8000, warmup_steps=warmup_steps)
    assert difference(job) <= TOLERANCE


@pytest.mark.parametrize("pipeline", [SD3, FLUX])
@pytest.mark.parametrize("ring", [2, 4])
@pytest.mark.parametrize(("mode", "millibits"), [(OFF, 8000), (FIXED, 32_000)], ids=["off", "without codec"])
def test_distrifusion_is_as_stale_as_it_is_defined(
    tiny_sd3: Path, tiny_flux: Path, pipeline: str, ring: int, mode: int, millibits: int
) -> None:
    folder = folder_of(tiny_sd3, tiny_flux, pipeline)
    job = Job(folder, pipeline, 1, ring, patch_mode=DISTRIFUSION, mode=mode, millibits=millibits, steps=6)
    (picture,) = pictures_of(run_job(job))
    defined = stale_picture(job, text_first=pipeline == FLUX)
    assert numpy.abs(picture - defined).max() <= TOLERANCE
    assert difference(job) > 10 * TOLERANCE


def test_distrifusion_is_exact_while_it_warms_up(tiny_sd3: Path) -> None:
    job = Job(tiny_sd3, SD3, 2, 2, patch_mode=DISTRIFUSION, millibits=8000, warmup_steps=99)
    assert difference(job) <= TOLERANCE


def test_distrifusion_in_eight_bits_differs_by_what_eight_bits_explain(tiny_sd3: Path) -> None:
    job = Job(tiny_sd3, SD3, 1, 2, patch_mode=DISTRIFUSION, millibits=8000, steps=12)
    seen = run_job(job)
    (picture,) = pictures_of(seen)
    assert 0 < numpy.abs(picture - stale_picture(job, text_first=False)).max() < 0.03
    last = seen[0].steps[-1]
    assert {window.operation for window in last.windows} == {"distrifusion.all_gather"}
    assert last.base_mismatches == last.frames_refused == last.key_frames_forced == 0
    assert last.bytes_sent < 0.4 * last.bytes_uncompressed


@pytest.mark.parametrize("patch_mode", [GATHER, DISTRIFUSION])
def test_a_patch_mode_s_transfers_are_counted_with_mode_off_too(tiny_sd3: Path, patch_mode: int) -> None:
    steps = run_job(Job(tiny_sd3, SD3, 1, 2, patch_mode=patch_mode, mode=OFF, steps=3))[0].steps
    assert steps[-1].bytes_sent > 0
    # DistriFusion's second step attends to what the first has read already.
    assert [bool(step.windows) for step in steps] == [True, patch_mode == GATHER, True]
