"""The bytes that `thinwire plan` foretells are the bytes that real ranks send."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.controller.manifest.manifests import manifest
from tests.harness.models import save_tiny_sd3
from tests.harness.sessions import DISTRIFUSION, FIXED, FLUX, GATHER, OFF, SD3, Job, run_job
from thinwire.controller.manifest.job import DiffusionJob
from thinwire.controller.planner import JobPlan, plan_job
from thinwire.runtime.facts import StepFacts

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def deep_sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_sd3(tmp_path_factory.mktemp("deep") / "model", layers=4)


def plan_of(job: Job) -> JobPlan:
    changes: dict[str, Any] = {
        "spec.model": {"source": {"path": str(job.folder)}, "dtype": "float32"},
        "spec.gpus": job.world_size,
        "spec.gpusPerPod": job.ranks_per_node or job.world_size,
        "spec.parallelism": {
            "ulysses": job.ulysses,
            "ring": job.ring,
            "cfg": job.cfg,
            "data": job.data,
            "pipefusion": job.pipefusion,
            "patchMode": {GATHER: "Gather", DISTRIFUSION: "DistriFusion"}.get(job.patch_mode, "None"),
        },
        "spec.compression": {
            "mode": "Off" if job.mode == OFF else "Fixed",
            "rate": {"minMillibits": job.millibits, "maxMillibits": job.millibits},
            "baseMemoryMebibytes": job.base_memory_mebibytes,
            "warmupSteps": job.warmup_steps,
        },
        "spec.generation.steps": job.steps,
        "spec.generation.height": job.pixels,
        "spec.generation.width": job.pixels,
        **({"spec.generation.numFrames": job.num_frames} if job.num_frames else {}),
    }
    return plan_job(DiffusionJob.from_raw(manifest(changes)))


def sent_in(steps: list[StepFacts], number: int) -> int:
    return steps[number].bytes_sent - (steps[number - 1].bytes_sent if number else 0)


def test_guidance_branches_and_replicas_are_counted(tiny_sd3: Path) -> None:
    job = Job(tiny_sd3, SD3, ulysses=1, ring=1, cfg=2, data=2, millibits=2000, steps=3, ranks_per_node=2)
    job = replace(job, prompts=("a red heart", "a rocket"))
    plan = plan_of(job)
    assert plan.refusals == ()
    (link,) = plan.links
    (rung,) = [one for one in link.rungs if one.within_limits]
    seen = run_job(job)
    assert sent_in(seen[0].steps, 0) == rung.key_frame_bytes * link.ranks
    assert sent_in(seen[0].steps, 2) == rung.step_bytes * link.ranks
    assert plan.memory is not None
    assert seen[0].steps[-1].base_memory_bytes == plan.memory.base_bytes


@pytest.mark.parametrize(
    ("pipeline", "ulysses", "ring", "mode", "millibits", "per_node"),
    [
        (SD3, 1, 2, FIXED, 2000, None),
        (SD3, 2, 2, FIXED, 8000, 2),
        (SD3, 2, 2, FIXED, 1600, 2),
        (SD3, 2, 2, OFF, 16000, 2),
        (FLUX, 2, 1, FIXED, 3000, None),
        (FLUX, 1, 4, FIXED, 1000, 2),
        (FLUX, 2, 2, FIXED, 4000, 1),
    ],
)
def test_a_step_sends_what_was_planned(
    tiny_sd3: Path,
    tiny_flux: Path,
    pipeline: str,
    ulysses: int,
    ring: int,
    mode: int,
    millibits: int,
    per_node: int | None,
) -> None:
    folder = tiny_sd3 if pipeline == SD3 else tiny_flux
    job = Job(folder, pipeline, ulysses, ring, mode=mode, millibits=millibits, ranks_per_node=per_node, steps=3)
    plan = plan_of(job)
    assert plan.refusals == ()
    seen = run_job(job)
    rungs = [next(one for one in link.rungs if one.within_limits) for link in plan.links]
    every_step, key_step = (
        sum(sent * link.ranks for sent, link in zip(sizes, plan.links, strict=True))
        for sizes in ([one.step_bytes for one in rungs], [one.key_frame_bytes for one in rungs])
    )
    steps = seen[0].steps
    assert sent_in(steps, 0) == key_step
    assert [sent_in(steps, number) for number in (1, 2)] == [every_step] * 2
    if mode != OFF:
        assert plan.memory is not None
        assert steps[-1].base_memory_bytes == plan.memory.base_bytes
    assert seen[0].facts is not None
    planned = {link.link_class: (link.values_per_step, link.operations_per_step) for link in plan.links}
    assert {one.link_class: (one.values_per_step, one.operations_per_step) for one in seen[0].facts.traffic} == planned
    for window in steps[-1].windows:
        assert window.link_class in planned


STAGED: list[tuple[str, dict[str, Any], int, int | None]] = [
    (SD3, {"ring": 1, "pipefusion": 2}, 4000, None),
    (SD3, {"ring": 1, "pipefusion": 4}, 1000, 2),
    (FLUX, {"ring": 1, "pipefusion": 2}, 2000, 1),
    (SD3, {"ring": 2, "pipefusion": 2}, 2000, 2),
    (SD3, {"ring": 1, "ulysses": 2, "pipefusion": 2}, 8000, 1),
    (SD3, {"ring": 1, "cfg": 2, "pipefusion": 2}, 4000, None),
    (SD3, {"patch_mode": GATHER, "ring": 4}, 2000, None),
    (SD3, {"patch_mode": GATHER, "ring": 2, "pipefusion": 2}, 4000, None),
]


@pytest.mark.parametrize(("pipeline", "degrees", "millibits", "per_node"), STAGED)
def test_a_picture_takes_the_bytes_that_were_planned_in_stages_and_patches_too(
    deep_sd3: Path, tiny_flux: Path, pipeline: str, degrees: dict[str, Any], millibits: int, per_node: int | None
) -> None:
    folder = deep_sd3 if pipeline == SD3 else tiny_flux
    job = Job(folder, pipeline, millibits=millibits, ranks_per_node=per_node, steps=5, **degrees)
    plan = plan_of(job)
    assert plan.refusals == ()
    rungs = [next(one for one in link.rungs if one.within_limits) for link in plan.links]
    seen = run_job(job)
    assert seen[0].steps[-1].bytes_sent == sum(rung.picture_bytes_of_all for rung in rungs)
    assert {window.link_class for step in seen[0].steps for window in step.windows} == {
        link.link_class for link in plan.links
    }
    assert plan.memory is not None
    assert seen[0].facts is not None
    # What the first stage plans with; the last one also keeps the guidance branches.
    assert plan.memory.base_bytes >= seen[0].facts.base_memory_bytes > 0


def test_distrifusion_sends_as_much_as_a_gather_a_step_later(tiny_sd3: Path) -> None:
    job = Job(tiny_sd3, SD3, patch_mode=DISTRIFUSION, millibits=2000, steps=5)
    (link,) = plan_of(job).links
    (rung,) = [one for one in link.rungs if one.within_limits]
    steps = run_job(job)[0].steps
    assert sent_in(steps, 0) == rung.key_frame_bytes * link.ranks
    assert sent_in(steps, 1) == 0  # the warm-up's last gather is read again: nothing arrives
    assert [sent_in(steps, number) for number in (2, 3, 4)] == [rung.step_bytes * link.ranks] * 3
    assert rung.picture_bytes == rung.key_frame_bytes + 4 * rung.step_bytes


def test_layers_without_bases_are_counted_whole(tmp_path: Path) -> None:
    folder = save_tiny_sd3(tmp_path / "deep", layers=6)
    job = Job(folder, millibits=4000, steps=3, pixels=192, base_memory_mebibytes=1)
    plan = plan_of(job)
    assert plan.memory is not None
    assert plan.memory.layers_without > 0
    (link,) = plan.links
    (rung,) = [one for one in link.rungs if one.within_limits]
    seen = run_job(job)
    assert sent_in(seen[0].steps, 2) == rung.step_bytes * link.ranks
    assert seen[0].steps[-1].base_memory_bytes == plan.memory.base_bytes
