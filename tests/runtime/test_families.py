"""Every family, split over ranks, is the picture that diffusers makes alone: exact where nothing is lost."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from tests.harness.families import SAVE, frames_of, save_tiny_hunyuan_video
from tests.harness.models import save_tiny_flux, save_tiny_sd3
from tests.harness.sessions import (
    DISTRIFUSION,
    FIXED,
    FLUX,
    GATHER,
    OFF,
    SD3,
    Job,
    assert_bases_agree,
    pictures_of,
    run_job,
)
from tests.runtime.test_planner import plan_of, sent_in
from tests.runtime.test_refusals import refusals
from thinwire.controller.manifest.preflight.families import family_named
from thinwire.controller.manifest.preflight.strategies import Standing, Strategy, verdict
from thinwire.controller.planner.rungs import OFF as OFF_RUNG
from thinwire.runtime.families import FAMILIES, family_of
from thinwire.runtime.picture import Pixels
from thinwire.runtime.reference import Reference

pytestmark = pytest.mark.distributed
TOLERANCE = 1e-4
INT8_NOISE = 0.015
"""Relative error of what the others see that int8 stays below on these models."""
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


@cache
def explained_by_int8(folder: Path, pipeline: str) -> float:
    """Return how far plain diffusers goes astray when every attention output is off by int8's error at random."""
    spec = job_of(folder, pipeline).spec()
    reference = Reference.open(spec)
    draw = torch.Generator().manual_seed(0)

    def disturb(_module: torch.nn.Module, _inputs: object, output: Any) -> Any:
        if isinstance(output, tuple):
            return tuple(disturb(_module, _inputs, part) for part in output)
        return output * (1 + INT8_NOISE * torch.randn(output.shape, generator=draw))

    for module in reference.model.family.attention_modules(reference.model.pipeline.transformer):
        module.register_forward_hook(disturb)
    picture = reference.generate_pixels(spec.generation.prompts[0])
    return float(numpy.abs(picture - plain_picture(folder, pipeline)).max())


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
    assert max(step.max_relative_error for step in seen[0].steps) <= INT8_NOISE
    assert difference(job, picture) <= 2 * explained_by_int8(job.folder, pipeline)
    assert_bases_agree(seen)
    plan = plan_of(job)
    assert plan.refusals == ()
    (link,) = plan.links
    (rung,) = [one for one in link.rungs if one.within_limits]
    assert rung.rung != OFF_RUNG
    assert plan.memory is not None
    sent, kept = sent_in(seen[0].steps, 2), seen[0].steps[-1].base_memory_bytes
    planned = rung.step_bytes * link.ranks, plan.memory.base_bytes
    if family_of(pipeline).text_varies:  # the plan is for the longest prompt
        assert sent < planned[0]
        assert kept < planned[1]
    else:
        assert (sent, kept) == planned


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
    assert difference(coded, picture) <= 2 * explained_by_int8(coded.folder, pipeline)
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


PROMPTS = ("a red heart", "red pizza", "a blue rocket of pizza", "a red heart")
"""Of 10, 9 and 12 tokens for the tiny HunyuanVideo: an even number is shared out, an odd one is on both ranks."""


@pytest.mark.parametrize(
    "degrees",
    [
        pytest.param({"ring": 2}, id="ring"),
        pytest.param({"ring": 1, "ulysses": 2}, id="ulysses"),
        pytest.param({"ring": 2, "patch_mode": GATHER}, id="gather"),
        pytest.param({"ring": 1, "ulysses": 2, "data": 2}, id="ulysses x data"),
    ],
)
def test_prompts_of_other_lengths_follow_one_another(saved: Callable[[str], Path], degrees: dict[str, int]) -> None:
    """HunyuanVideo's text is as long as each prompt, so that every prompt's exchange has shapes of its own."""
    folder = saved("HunyuanVideoPipeline")
    job = job_of(folder, "HunyuanVideoPipeline", millibits=8000, warmup_steps=99, prompts=PROMPTS, **degrees)
    reference = Reference.open(job.spec())
    plain = [reference.generate_pixels(prompt) for prompt in job.spec().generation.prompts]
    for picture, alone in zip(pictures_of(run_job(job)), plain, strict=True):
        assert numpy.abs(picture - alone).max() <= TOLERANCE
    seen = run_job(replace(job, warmup_steps=1))
    for picture, alone in zip(pictures_of(seen), plain, strict=True):
        assert 0 < numpy.abs(picture - alone).max() <= 2 * explained_by_int8(folder, job.pipeline)
    assert_bases_agree(seen)
    steps = seen[0].steps
    assert steps[-1].base_mismatches == steps[-1].frames_refused == 0
    memory = plan_of(job).memory
    assert memory is not None
    assert steps[-1].base_memory_bytes <= memory.base_bytes  # no prompt's bases outlive it


def test_distrifusion_is_exact_while_it_warms_up_whatever_a_prompts_length(saved: Callable[[str], Path]) -> None:
    folder = saved("HunyuanVideoPipeline")
    job = job_of(
        folder,
        "HunyuanVideoPipeline",
        ring=2,
        patch_mode=DISTRIFUSION,
        millibits=8000,
        warmup_steps=99,
        prompts=PROMPTS,
    )
    reference = Reference.open(job.spec())
    plain = [reference.generate_pixels(prompt) for prompt in job.spec().generation.prompts]
    for picture, alone in zip(pictures_of(run_job(job)), plain, strict=True):
        assert numpy.abs(picture - alone).max() <= TOLERANCE
    seen = run_job(replace(job, warmup_steps=1))
    assert all(numpy.isfinite(picture).all() for picture in pictures_of(seen))
    assert seen[0].steps[-1].base_mismatches == seen[0].steps[-1].frames_refused == 0


def test_a_prompt_of_the_most_tokens_sends_what_was_planned(tmp_path: Path) -> None:
    folder = save_tiny_hunyuan_video(tmp_path / "model", text_tokens=8)
    job = job_of(folder, "HunyuanVideoPipeline", millibits=2000)
    plan, seen = plan_of(job), run_job(job)
    (link,) = plan.links
    (rung,) = [one for one in link.rungs if one.within_limits]
    assert sent_in(seen[0].steps, 2) == rung.step_bytes * link.ranks
    assert plan.memory is not None
    assert seen[0].steps[-1].base_memory_bytes == plan.memory.base_bytes


def test_bytes_of_uncoded_prompts_of_other_lengths_are_counted_and_not_planned(saved: Callable[[str], Path]) -> None:
    job = job_of(saved("HunyuanVideoPipeline"), "HunyuanVideoPipeline", mode=OFF, prompts=PROMPTS[:2])
    steps = run_job(job)[0].steps
    even, odd = sent_in(steps, 1), sent_in(steps, job.steps + 1)
    (link,) = plan_of(job).links
    assert odd < even < link.rungs[0].step_bytes * link.ranks
    # Two layers' keys and values of 48 tokens for both ranks, in float32; the even prompt's 10 tokens are shared out.
    assert (even, odd) == (2 * 2 * (48 + 10) * 48 * 4, 2 * 2 * 48 * 48 * 4)


def test_tokens_that_the_degrees_do_not_divide_are_refused_before_they_are_padded(
    saved: Callable[[str], Path],
) -> None:
    """Upstream pads Wan's sequence with tokens that attention sees: the video would be silently wrong."""
    job = job_of(saved("WanPipeline"), "WanPipeline", ring=1, ulysses=4, pixels=80)
    assert [str(refusal) for refusal in plan_of(job).refusals] == [
        "spec.parallelism: expected ulysses * ring to divide the 75 tokens of this size and number of frames, got 4; "
        "set gpus 3, ulysses 1 and ring 3 and leave the other degrees at 1"
    ]
    (sentence,) = refusals(job)
    assert "to divide the 75 tokens" in sentence


def test_noise_that_a_scheduler_draws_is_that_of_one_process(saved: Callable[[str], Path]) -> None:
    """HunyuanDiT's sampler adds noise in every step; upstream leaves every rank to draw the same for its own rows."""
    job = job_of(saved("HunyuanDiTPipeline"), "HunyuanDiTPipeline", ring=4, mode=OFF, pixels=64)
    (picture,) = pictures_of(run_job(job))
    assert difference(job, picture) <= TOLERANCE
