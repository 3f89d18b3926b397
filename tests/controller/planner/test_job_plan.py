"""What a plan says of a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.controller.manifest.manifests import manifest, sd3_folder
from thinwire.controller.manifest.job import DiffusionJob
from thinwire.controller.planner import JobPlan, plan_job
from thinwire.controller.planner.layout import LinkClass


def planned(folder: Path, changes: dict[str, Any] | None = None) -> JobPlan:
    return plan_job(DiffusionJob.from_raw(manifest({"spec.model.source": {"path": str(folder)}, **(changes or {})})))


def used(plan: JobPlan) -> list[str]:
    return [one.rung for one in plan.links[0].rungs if one.within_limits]


def test_each_link_class_has_its_own_bytes(tmp_path: Path) -> None:
    plan = planned(sd3_folder(tmp_path / "model"), {"spec.gpusPerPod": 2})
    assert [link.link_class for link in plan.links] == [LinkClass.INTRA_NODE, LinkClass.INTER_NODE]
    for link in plan.links:
        whole = link.rungs[0]
        assert (whole.rung, whole.step_bytes) == ("off", link.values_per_step * 4)
        sizes = [one.step_bytes for one in link.rungs]
        assert sizes == sorted(sizes, reverse=True)
        assert all(one.key_frame_bytes >= one.step_bytes for one in link.rungs)


def test_limits_choose_the_rungs_that_the_law_may_use(tmp_path: Path) -> None:
    folder = sd3_folder(tmp_path / "model")
    limits = {"spec.compression.rate": {"minMillibits": 2000, "maxMillibits": 8000}}
    assert used(planned(folder, limits)) == ["int8", "int4", "bits3", "bits2"]
    assert used(planned(folder)) == ["off", "int8", "int4", "bits3", "bits2", "ternary", "bits1"]
    fixed = {"spec.compression": {"mode": "Fixed", "rate": {"minMillibits": 3500, "maxMillibits": 3500}}}
    assert used(planned(folder, fixed)) == ["bits3"]
    off = planned(folder, {"spec.compression": {"mode": "Off"}})
    assert (used(off), off.memory) == (["off"], None)
    assert len(off.links[0].rungs) == 1


def test_a_calibration_adds_rates_only_where_attention_travels() -> None:
    in_box = {"spec.model.source": {"bundled": "emoji"}, "spec.gpus": 2}
    plans = [
        plan_job(DiffusionJob.from_raw(manifest({**in_box, "spec.parallelism": {degree: 2}})))
        for degree in ("ring", "pipefusion")
    ]
    transforms = [sum(one.rung.startswith("transform") for one in plan.links[0].rungs) for plan in plans]
    assert transforms[0] > 10
    assert transforms[1] == 0


def test_a_budget_for_bases_sends_layers_whole(tmp_path: Path) -> None:
    folder = sd3_folder(tmp_path / "model", layers=40)
    free, tight = planned(folder), planned(folder, {"spec.compression.baseMemoryMebibytes": 1})
    assert free.memory is not None
    assert tight.memory is not None
    assert free.memory.layers_without == 0
    assert 0 < tight.memory.layers_without < 40
    assert tight.memory.base_bytes <= 2**20
    last = -1
    assert free.links[0].rungs[last].step_bytes < tight.links[0].rungs[last].step_bytes
    assert tight.links[0].rungs[last].step_bytes < tight.links[0].rungs[0].step_bytes


def test_one_rank_has_no_links(tmp_path: Path) -> None:
    plan = planned(sd3_folder(tmp_path / "model"), {"spec.gpus": 1, "spec.parallelism": {}})
    assert (plan.links, plan.layout.groups) == ((), {})


def test_what_cannot_run_is_refused_and_not_worked_out(tmp_path: Path) -> None:
    plan = planned(sd3_folder(tmp_path / "model"), {"spec.generation.height": 40})
    assert [refusal.field for refusal in plan.refusals] == ["spec.generation.height"]
    assert (plan.links, plan.memory) == ((), None)


def test_a_model_that_only_a_cluster_has_leaves_ranks_and_groups() -> None:
    source = {"spec.model.source": {"persistentVolumeClaim": {"claimName": "models"}}}
    plan = plan_job(DiffusionJob.from_raw(manifest(source)))
    assert (plan.refusals, plan.attention, plan.links) == ((), None, ())
    assert plan.layout.ranks == 4
