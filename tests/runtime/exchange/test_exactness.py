"""The exchange must not change the picture where nothing is lost: against plain diffusers, in full width."""

from functools import cache
from pathlib import Path

import numpy
import pytest

from tests.harness.models import save_tiny_sd3
from tests.harness.sessions import FIXED, FLUX, OFF, SD3, Job, pictures_of, run_job
from thinwire.runtime.picture import Pixels
from thinwire.runtime.reference import Reference

pytestmark = pytest.mark.distributed
TOLERANCE = 1e-4
DEGREES = [(1, 2), (2, 1), (2, 2)]


@cache
def plain_picture(folder: Path, pipeline: str, steps: int = 4) -> Pixels:
    spec = Job(folder, pipeline, steps=steps).spec()
    return Reference.open(spec).generate_pixels(spec.generation.prompts[0])


def difference(job: Job) -> float:
    (picture,) = pictures_of(run_job(job))
    return float(numpy.abs(picture - plain_picture(job.folder, job.pipeline, job.steps)).max())


@pytest.mark.parametrize(("ulysses", "ring"), DEGREES)
def test_sd3_with_mode_off_is_exact(tiny_sd3: Path, ulysses: int, ring: int) -> None:
    assert difference(Job(tiny_sd3, SD3, ulysses, ring, mode=OFF)) <= TOLERANCE


@pytest.mark.parametrize(("ulysses", "ring"), DEGREES)
def test_sd3_through_the_raw_rung_is_exact(tiny_sd3: Path, ulysses: int, ring: int) -> None:
    assert difference(Job(tiny_sd3, SD3, ulysses, ring, millibits=8000, warmup_steps=99)) <= TOLERANCE


@pytest.mark.parametrize(("ulysses", "ring"), DEGREES)
def test_flux_with_mode_off_is_exact(tiny_flux: Path, ulysses: int, ring: int) -> None:
    assert difference(Job(tiny_flux, FLUX, ulysses, ring, mode=OFF)) <= TOLERANCE


@pytest.mark.parametrize(("ulysses", "ring"), DEGREES)
def test_flux_through_the_raw_rung_is_exact(tiny_flux: Path, ulysses: int, ring: int) -> None:
    assert difference(Job(tiny_flux, FLUX, ulysses, ring, millibits=8000, warmup_steps=99)) <= TOLERANCE


def test_one_rank_alone_is_exact(tiny_sd3: Path) -> None:
    assert difference(Job(tiny_sd3, SD3, ring=1)) <= TOLERANCE


def test_a_rate_of_off_is_exact(tiny_sd3: Path) -> None:
    assert difference(Job(tiny_sd3, SD3, 2, 2, mode=FIXED, millibits=32_000)) <= TOLERANCE


@pytest.mark.parametrize("warmup_steps", [99, 1])
def test_text_that_cannot_be_split_joins_keys_and_values_once(tmp_path: Path, warmup_steps: int) -> None:
    folder = save_tiny_sd3(tmp_path / "odd", text_tokens=7)
    exact = warmup_steps == 99
    seen = difference(Job(folder, SD3, 2, 2, millibits=8000, warmup_steps=warmup_steps))
    assert seen <= (TOLERANCE if exact else 0.02)


def test_a_coarse_rate_changes_the_picture_so_these_models_can_tell(tiny_sd3: Path) -> None:
    assert difference(Job(tiny_sd3, SD3, 2, 2, millibits=2000)) > 10 * TOLERANCE
