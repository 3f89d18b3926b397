"""Every family, split over ranks, is the picture that diffusers makes alone: exact where nothing is lost."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import pytest

from tests.harness.families import SAVE, frames_of
from tests.harness.models import save_tiny_flux, save_tiny_sd3
from tests.harness.sessions import FIXED, FLUX, OFF, SD3, Job, assert_bases_agree, pictures_of, run_job
from tests.runtime.test_planner import plan_of, sent_in
from thinwire.controller.manifest.preflight.families import family_named
from thinwire.controller.manifest.preflight.strategies import Standing, Strategy, verdict
from thinwire.controller.planner.rungs import OFF as OFF_RUNG
from thinwire.runtime.families import FAMILIES
from thinwire.runtime.picture import Pixels
from thinwire.runtime.reference import Reference

pytestmark = pytest.mark.distributed
TOLERANCE = 1e-4
INT8_TOLERANCE = 0.15
"""What int8 explains on random weights over four steps; a wrong exchange differs by most of the range."""
FOLDERS: dict[str, Callable[[Path], Path]] = {SD3: save_tiny_sd3, FLUX: save_tiny_flux, **SAVE}
NEW = sorted(SAVE)


def runs(pipeline: str, strategy: Strategy) -> bool:
    family = family_named(pipeline)
    assert family is not None
    return verdict(family, strategy).standing is Standing.SUPPORTED


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    @cache
    def save(pipeline: str) -> Path:
        return FOLDERS[pipeline](tmp_path_factory.mktemp(pipeline) / "model")

    return save


@cache
def plain_picture(folder: Path, pipeline: str) -> Pixels:
    spec = job_of(folder, pipeline).spec()
    return Reference.open(spec).generate_pixels(spec.generation.prompts[0])


def job_of(folder: Path, pipeline: str, **changes: Any) -> Job:
    return Job(folder, pipeline, num_frames=frames_of(pipeline), **changes)


def difference(job: Job, picture: Pixels) -> float:
    return float(numpy.abs(picture - plain_picture(job.folder, job.pipeline)).max())


def test_every_family_has_a_tiny_model() -> None:
    assert sorted(FOLDERS) == sorted(family.pipeline_class for family in FAMILIES)


@pytest.mark.parametrize("pipeline", NEW)
@pytest.mark.parametrize(("ulysses", "ring"), [(1, 2), (2, 1)])
@pytest.mark.parametrize("mode", [OFF, FIXED])
def test_off_and_raw_are_exact(saved: Callable[[str], Path], pipeline: str, ulysses: int, ring: int, mode: int) -> None:
    job = job_of(saved(pipeline), pipeline, ulysses=ulysses, ring=ring, mode=mode, millibits=8000, warmup_steps=99)
    (picture,) = pictures_of(run_job(job))
    assert difference(job, picture) <= TOLERANCE


@pytest.mark.parametrize("pipeline", NEW)
def test_four_ranks_are_exact(saved: Callable[[str], Path], pipeline: str) -> None:
    job = job_of(saved(pipeline), pipeline, ulysses=2, ring=2, millibits=8000, warmup_steps=99)
    (picture,) = pictures_of(run_job(job))
    assert difference(job, picture) <= TOLERANCE


@pytest.mark.parametrize("pipeline", NEW)
@pytest.mark.parametrize(("ulysses", "ring"), [(1, 2), (2, 1)])
def test_int8_is_close_with_bases_alike_and_sends_what_was_planned(
    saved: Callable[[str], Path], pipeline: str, ulysses: int, ring: int
) -> None:
    job = job_of(saved(pipeline), pipeline, ulysses=ulysses, ring=ring, millibits=8000)
    seen = run_job(job)
    (picture,) = pictures_of(seen)
    assert difference(job, picture) <= INT8_TOLERANCE
    assert_bases_agree(seen)
    plan = plan_of(job)
    assert plan.refusals == ()
    (link,) = plan.links
    (rung,) = [one for one in link.rungs if one.within_limits]
    assert rung.rung != OFF_RUNG
    assert sent_in(seen[0].steps, 2) == rung.step_bytes * link.ranks
    assert plan.memory is not None
    assert seen[0].steps[-1].base_memory_bytes == plan.memory.base_bytes


@pytest.mark.parametrize("pipeline", [name for name in NEW if runs(name, Strategy.CFG)])
def test_guidance_branches_on_ranks_of_their_own_are_exact_and_send_what_was_planned(
    saved: Callable[[str], Path], pipeline: str
) -> None:
    exact = job_of(saved(pipeline), pipeline, ring=1, cfg=2, millibits=8000, warmup_steps=99)
    (picture,) = pictures_of(run_job(exact))
    assert difference(exact, picture) <= TOLERANCE
    coded = job_of(saved(pipeline), pipeline, ring=2, cfg=2, millibits=8000)
    seen = run_job(coded)
    (picture,) = pictures_of(seen)
    assert difference(coded, picture) <= INT8_TOLERANCE
    assert_bases_agree(seen)
    (link,) = plan_of(coded).links
    (rung,) = [one for one in link.rungs if one.within_limits]
    assert sent_in(seen[0].steps, 2) == rung.step_bytes * link.ranks


@pytest.mark.parametrize("pipeline", NEW)
def test_a_coarse_rate_changes_the_picture_so_these_models_can_tell(
    saved: Callable[[str], Path], pipeline: str
) -> None:
    job = job_of(saved(pipeline), pipeline, ulysses=2, ring=2, millibits=1000)
    (picture,) = pictures_of(run_job(job))
    assert difference(job, picture) > 10 * TOLERANCE


def test_noise_that_a_scheduler_draws_is_that_of_one_process(saved: Callable[[str], Path]) -> None:
    """HunyuanDiT's sampler adds noise in every step; upstream leaves every rank to draw the same for its own rows."""
    job = job_of(saved("HunyuanDiTPipeline"), "HunyuanDiTPipeline", ring=4, mode=OFF, pixels=64)
    (picture,) = pictures_of(run_job(job))
    assert difference(job, picture) <= TOLERANCE
