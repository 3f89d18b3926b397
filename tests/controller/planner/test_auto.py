"""Degrees that thinwire chooses: admissible, and the fastest by a cost model that follows bytes and bandwidth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.controller.manifest.manifests import REMOVED, flux_folder, manifest, sd3_folder
from thinwire.controller.manifest.job import DiffusionJob, Parallelism
from thinwire.controller.manifest.preflight import preflight
from thinwire.controller.manifest.preflight.model_folder import ModelFacts, read_model
from thinwire.controller.manifest.refusal import ManifestError
from thinwire.controller.manifest.validate import validate
from thinwire.controller.planner.auto import candidates, machine_of, ranked, settled
from thinwire.controller.planner.layout import LinkClass
from thinwire.controller.planner.machine import Link, Machine, Source, measured, step_flops
from thinwire.controller.planner.traffic import Attention

ONE_PROMPT = [{"name": "rocket", "prompt": "a rocket"}]


def job_for(folder: Path, changes: dict[str, Any] | None = None) -> DiffusionJob:
    raw = manifest({"spec.model.source": {"path": str(folder)}, "spec.parallelism": {"auto": True}, **(changes or {})})
    assert validate(raw) == []
    return DiffusionJob.from_raw(raw)


def facts_of(job: DiffusionJob) -> ModelFacts:
    facts = read_model(job.model)
    assert facts is not None
    return facts


def degrees_of(parallelism: Parallelism) -> dict[str, int]:
    names = ("ulysses", "ring", "pipefusion", "cfg", "data")
    return {name: degree for name in names if (degree := getattr(parallelism, name)) > 1}


def with_link(machine: Machine, bytes_per_second: float) -> Machine:
    link = Link(bytes_per_second, 1e-4, Source.GIVEN)
    return replace(machine, links=dict.fromkeys(LinkClass, link))


def test_a_job_with_degrees_of_its_own_stays_as_it_is(tmp_path: Path) -> None:
    job = DiffusionJob.from_raw(manifest({"spec.model.source": {"path": str(sd3_folder(tmp_path / "model"))}}))
    assert settled(job) is job


@pytest.mark.parametrize("gpus", [1, 2, 4, 8])
def test_the_degrees_chosen_use_all_ranks_and_can_run(tmp_path: Path, gpus: int) -> None:
    job = settled(job_for(sd3_folder(tmp_path / "model"), {"spec.gpus": gpus, "spec.gpusPerPod": 1}))
    degrees = job.parallelism
    assert degrees.sequence * degrees.cfg * degrees.data * degrees.pipefusion == gpus
    assert not degrees.auto
    assert preflight(job) == []


def test_ranks_that_no_degrees_use_are_refused(tmp_path: Path) -> None:
    job = job_for(sd3_folder(tmp_path / "model"), {"spec.gpus": 3})
    with pytest.raises(ManifestError, match=r"spec\.generation\.height: expected a multiple of 12"):
        settled(job)


def test_many_prompts_on_a_thin_link_are_shared_out_whole(tmp_path: Path) -> None:
    prompts = [{"name": f"p{number}", "prompt": "x"} for number in range(8)]
    changes = {"spec.generation.prompts": prompts, "spec.parallelism": {"auto": True, "linkMebibytesPerSecond": 1}}
    job = settled(job_for(sd3_folder(tmp_path / "model"), changes))
    assert degrees_of(job.parallelism) == {"data": 4}


def test_one_prompt_is_never_given_to_replicas(tmp_path: Path) -> None:
    job = settled(job_for(sd3_folder(tmp_path / "model"), {"spec.generation.prompts": ONE_PROMPT}))
    assert job.parallelism.data == 1
    assert job.parallelism.cfg == 2


def test_without_guidance_there_are_no_branches_to_share(tmp_path: Path) -> None:
    changes = {"spec.generation.guidanceScaleMilli": 1000, "spec.generation.prompts": ONE_PROMPT}
    folder = sd3_folder(tmp_path / "model")
    assert all(degrees.cfg == 1 for degrees in candidates(job_for(folder, changes)))
    flux = settled(job_for(flux_folder(tmp_path / "flux"), {"spec.generation.prompts": ONE_PROMPT}))
    assert flux.parallelism.cfg == 1


def test_heads_and_rows_that_do_not_divide_leave_what_does(tmp_path: Path) -> None:
    folder = sd3_folder(tmp_path / "model", heads=3)
    changes = {"spec.generation.prompts": ONE_PROMPT, "spec.generation.guidanceScaleMilli": 1000}
    job = settled(job_for(folder, changes))
    assert degrees_of(job.parallelism) == {"ring": 4}
    with pytest.raises(ManifestError, match=r"spec\.generation\.height: expected a multiple of"):
        settled(job_for(folder, {**changes, "spec.generation.height": 40}))


CLAIM = {"persistentVolumeClaim": {"claimName": "models"}}
SD3, FLUX = "StableDiffusion3Pipeline", "FluxPipeline"


@pytest.mark.parametrize(
    ("prompts", "pipeline", "degrees"),
    [(4, None, {"data": 4}), (9, FLUX, {"data": 4}), (2, SD3, {"data": 2, "cfg": 2}), (3, SD3, {"data": 2, "cfg": 2})],
)
def test_a_model_that_cannot_be_read_here_runs_in_what_needs_no_look_at_it(
    tmp_path: Path, prompts: int, pipeline: str | None, degrees: dict[str, int]
) -> None:
    changes: dict[str, Any] = {"spec.model.source": CLAIM, "spec.generation.prompts": prompts_of(prompts)}
    job = settled(job_for(tmp_path, changes | ({"spec.model.pipeline": pipeline} if pipeline else {})))
    assert degrees_of(job.parallelism) == degrees
    assert not job.parallelism.auto


@pytest.mark.parametrize(
    ("prompts", "pipeline", "got", "remedy"),
    [
        (2, None, "2 prompts", "set ulysses and ring instead, name spec.model.pipeline, or have 4 prompts or more"),
        (2, FLUX, "2 prompts", "set ulysses and ring instead, or have 4 prompts or more"),
        (1, SD3, "1 prompt", "set ulysses and ring instead, or have 4 prompts or more"),
    ],
)
def test_a_model_that_would_have_to_be_read_is_refused(
    tmp_path: Path, prompts: int, pipeline: str | None, got: str, remedy: str
) -> None:
    changes: dict[str, Any] = {"spec.model.source": CLAIM, "spec.generation.prompts": prompts_of(prompts)}
    with pytest.raises(ManifestError) as caught:
        settled(job_for(tmp_path, changes | ({"spec.model.pipeline": pipeline} if pipeline else {})))
    assert str(caught.value) == (
        "spec.parallelism.auto: expected a prompt for each of 4 ranks, or a model that can be read before they start, "
        f"got {got} and persistentVolumeClaim; {remedy}"
    )


def test_where_model_and_prompts_are_both_in_the_cluster_it_settles_the_degrees(tmp_path: Path) -> None:
    changes = {
        "spec.model.source": CLAIM,
        "spec.generation.prompts": REMOVED,
        "spec.generation.promptsFrom": {"configMap": {"name": "prompts"}},
    }
    assert settled(job_for(tmp_path, changes)).parallelism.auto


def prompts_of(number: int) -> list[dict[str, str]]:
    return [{"name": f"p{one}", "prompt": "x"} for one in range(number)]


def test_more_bandwidth_is_never_slower_and_never_coarser(tmp_path: Path) -> None:
    job = job_for(sd3_folder(tmp_path / "model"), {"spec.generation.prompts": ONE_PROMPT})
    facts = facts_of(job)
    machine = machine_of(job, facts)
    before: dict[str, Any] = {}
    for rate in (1e5, 1e6, 1e7, 1e8, 1e9):
        for one in ranked(job, facts, with_link(machine, rate)):
            key = str(degrees_of(one.parallelism))
            if key in before:
                assert one.step_seconds <= before[key].step_seconds * 1.5  # a finer rung may take the stall allowed
                assert one.distortion <= before[key].distortion
            before[key] = one


def test_the_manifest_s_bandwidth_counts_between_nodes(tmp_path: Path) -> None:
    job = job_for(sd3_folder(tmp_path / "model"), {"spec.parallelism": {"auto": True, "linkMebibytesPerSecond": 7}})
    links = machine_of(job, facts_of(job)).links
    assert links[LinkClass.INTER_NODE] == Link(7 * 2**20, links[LinkClass.INTER_NODE].fixed_seconds, Source.GIVEN)
    assert links[LinkClass.INTRA_NODE].source is Source.ASSUMED


def test_a_mode_of_its_own_is_kept(tmp_path: Path) -> None:
    folder = sd3_folder(tmp_path / "model")
    changes = {"spec.generation.prompts": ONE_PROMPT, "spec.compression.mode": "Off"}
    job = job_for(folder, changes)
    assert {rung for one in ranked(job, facts_of(job)) for rung in one.rungs.values()} == {"off"}


@given(rate=st.floats(1e5, 1e10), fixed=st.floats(1e-5, 1e-2), sizes=st.lists(st.integers(1_000, 10**6), min_size=2))
def test_a_line_is_found_again_in_the_windows_that_it_made(rate: float, fixed: float, sizes: list[int]) -> None:
    windows = [
        {
            "link_class": "inter-node",
            "count": 1,
            "sum_bytes": size,
            "sum_seconds": fixed + size / rate,
            "sum_bytes_squared": size * size,
            "sum_bytes_seconds": size * (fixed + size / rate),
        }
        for size in sizes
    ]
    report = {
        "spec": {"parallelism": {"ring": 2, "cfg": 2}},
        "time": {"median_compute_seconds": 0.25},
        "ladder": [{"encode_seconds_per_value": 1e-9, "decode_seconds_per_value": 3e-9}],
        "steps": [{"windows": windows}],
    }
    assumed_link = Link(1.0, 0.0, Source.ASSUMED)
    machine = Machine(1.0, Source.ASSUMED, dict.fromkeys(LinkClass, assumed_link), 1.0)
    found = measured(machine, report)
    assert (found.step_seconds, found.codec_seconds_per_value) == (1.0, 4e-9)
    assert found.links[LinkClass.INTRA_NODE] == assumed_link
    line = found.links[LinkClass.INTER_NODE]
    assert line.source is Source.MEASURED
    total = sum(sizes)
    assert line.fixed_seconds * len(sizes) + total / line.bytes_per_second == pytest.approx(
        len(sizes) * fixed + total / rate, rel=1e-3
    )


def test_a_report_without_steps_is_refused() -> None:
    machine = Machine(1.0, Source.ASSUMED, {}, 1.0)
    with pytest.raises(ValueError, match=r"expected report\.json of a run"):
        measured(machine, {"spec": {}})


def test_attention_costs_by_the_square_of_tokens() -> None:
    small = Attention(1, 1, 1000, 0, 1, 64, False, 4, 1000)
    large = replace(small, image_tokens=2000)
    weights = 2 * 12 * 64 * 64 * 1000
    assert step_flops(small) == weights + 4 * 64 * 1000**2
    assert step_flops(large) == 2 * weights + 4 * 64 * 2000**2


def test_the_prompts_of_a_config_map_count_as_one(tmp_path: Path) -> None:
    changes = {
        "spec.generation.prompts": REMOVED,
        "spec.generation.promptsFrom": {"configMap": {"name": "prompts"}},
    }
    assert settled(job_for(sd3_folder(tmp_path / "model"), changes)).parallelism.data == 1
