"""Models, degrees and sizes that would be silently wrong or die later are refused, with the nearest that works."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.controller.manifest.manifests import (
    REMOVED,
    flux_folder,
    manifest,
    safetensors_bytes,
    sd3_folder,
    write,
    write_json,
)
from thinwire.controller.manifest.job import DiffusionJob, Generation
from thinwire.controller.manifest.preflight import local_preflight, preflight, warnings
from thinwire.controller.manifest.preflight.families import FAMILIES
from thinwire.controller.manifest.preflight.output_folder import needed_bytes, output_refusals
from thinwire.controller.manifest.run_spec import run_spec
from thinwire.controller.manifest.schema import root_schema, schema_at
from thinwire.controller.manifest.validate import validate

PATH = "spec.model.source.path"
TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"


def job_with(folder: Path, changes: dict[str, Any] | None = None) -> DiffusionJob:
    raw = manifest({"spec.model.source": {"path": str(folder)}, **(changes or {})})
    assert validate(raw) == []
    return DiffusionJob.from_raw(raw)


def refusals(folder: Path, changes: dict[str, Any] | None = None) -> list[str]:
    return [str(refusal).replace(str(folder), "MODEL") for refusal in preflight(job_with(folder, changes))]


def test_a_whole_model_that_fits_is_accepted(tmp_path: Path) -> None:
    folder = sd3_folder(tmp_path / "model")
    assert refusals(folder) == []
    assert warnings(job_with(folder)) == []
    assert refusals(flux_folder(tmp_path / "flux")) == []


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    assert refusals(folder) == [f"{PATH}: expected a model folder at MODEL, got nothing there; check the path"]
    folder.write_text("")
    assert refusals(folder) == [f"{PATH}: expected a model folder at MODEL, got a file; check the path"]


def test_a_relative_path_starts_at_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sd3_folder(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    job = job_with(Path("model"))
    assert preflight(job) == []
    assert run_spec(job, attempt=1, output_dir=tmp_path / "out").model.path == str(tmp_path / "model")


BROKEN = {
    "model_index.json": (
        REMOVED,
        "the file MODEL/model_index.json, got nothing there; name a whole model in diffusers' format",
    ),
    "vae/config.json": (b"{", "JSON in MODEL/vae/config.json, got something else; copy the model again"),
    "transformer/config.json": (
        b"[]",
        "a JSON object in MODEL/transformer/config.json, got something else; copy the model again",
    ),
    "scheduler/scheduler_config.json": (
        REMOVED,
        "the file MODEL/scheduler/scheduler_config.json, got nothing there; name a whole model in diffusers' format",
    ),
    TRANSFORMER: (
        safetensors_bytes({"weight": (2, 3)})[:-3],
        f"24 bytes of tensors in MODEL/{TRANSFORMER}, got 21; copy the model again",
    ),
    "vae/diffusion_pytorch_model.safetensors": (
        REMOVED,
        "weights (*.safetensors) in MODEL/vae, got none; copy the model again",
    ),
    "thinwire.json": (
        b'{"max_sequence_length": 0}',
        "max_sequence_length to be a positive integer in MODEL/thinwire.json, got 0; correct it",
    ),
}


@pytest.mark.parametrize("file", BROKEN)
def test_a_broken_model_is_refused_in_one_sentence(tmp_path: Path, file: str) -> None:
    folder = sd3_folder(tmp_path / "model")
    content, sentence = BROKEN[file]
    if isinstance(content, bytes):
        write(folder / file, content)
    else:
        (folder / file).unlink()
    assert refusals(folder) == [f"{PATH}: expected {sentence}"]


def test_a_missing_component_is_refused(tmp_path: Path) -> None:
    folder = sd3_folder(tmp_path / "model")
    (folder / "vae").rename(folder / "elsewhere")
    assert refusals(folder) == [f"{PATH}: expected a folder MODEL/vae, got nothing there; copy the model again"]
    index = json.loads((folder / "model_index.json").read_text())
    write_json(folder / "model_index.json", {**index, "vae": [None, None]})
    assert refusals(folder) == [
        f"{PATH}: expected a component vae in MODEL/model_index.json, got none; take a whole model"
    ]


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = sd3_folder(tmp_path / "model")
    (folder / TRANSFORMER).rename(folder / "transformer" / "diffusion_pytorch_model.bin")
    assert refusals(folder) == [
        f"{PATH}: expected weights (*.safetensors) in MODEL/transformer, got pickled weights, which can run any code; "
        "convert them: save_pretrained(..., safe_serialization=True)"
    ]


def test_sharded_weights_are_followed(tmp_path: Path) -> None:
    folder = sd3_folder(tmp_path / "model")
    shards = folder / "transformer"
    (folder / TRANSFORMER).unlink()
    index = shards / "diffusion_pytorch_model.safetensors.index.json"
    write_json(index, {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}})
    write(shards / "one.safetensors", safetensors_bytes({"a": (2,)}))
    write(shards / "two.safetensors", safetensors_bytes({"b": (2,)}))
    assert refusals(folder) == []
    write(shards / "one.safetensors", safetensors_bytes({"c": (2,)}))
    (shards / "two.safetensors").unlink()
    assert refusals(folder) == [
        f"{PATH}: expected the tensor a in MODEL/transformer/one.safetensors, got none; copy the model again",
        f"{PATH}: expected the file MODEL/transformer/two.safetensors, got nothing there; copy the model again",
    ]
    write_json(index, {"weight_map": {"a": "../../x.safetensors"}})
    assert refusals(folder) == [
        f'{PATH}: expected files of MODEL/transformer in MODEL/transformer/{index.name}, got "../../x.safetensors"; '
        "copy the model again"
    ]
    write_json(index, {})
    assert refusals(folder) == [
        f"{PATH}: expected a weight_map in MODEL/transformer/{index.name}, got none; copy the model again"
    ]


def test_an_unsupported_pipeline_is_refused_with_those_that_are(tmp_path: Path) -> None:
    folder = sd3_folder(tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text())
    write_json(folder / "model_index.json", {**index, "_class_name": "StableDiffusionXLPipeline"})
    assert refusals(folder) == [
        f"{PATH}: expected a pipeline of one of the classes {', '.join(family.pipeline for family in FAMILIES)}, "
        "got StableDiffusionXLPipeline; choose another model"
    ]


def test_a_newer_pipeline_that_does_not_run_is_refused_with_the_reason(tmp_path: Path) -> None:
    folder = sd3_folder(tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text())
    write_json(folder / "model_index.json", {**index, "_class_name": "LTXPipeline"})
    (sentence,) = refusals(folder)
    assert sentence.endswith("got LTXPipeline (xfuser has no transformer for it, only for LTX-2); choose another model")


def test_a_pipeline_other_than_the_model_s_is_refused(tmp_path: Path) -> None:
    folder = sd3_folder(tmp_path / "model")
    assert refusals(folder, {"spec.model.pipeline": "FluxPipeline"}) == [
        "spec.model.pipeline: expected StableDiffusion3Pipeline, the model's class, got FluxPipeline; remove the field"
    ]


UNFIT = [
    (
        {"spec.parallelism": {"ulysses": 3}, "spec.gpus": 3, "spec.generation.height": 48},
        "spec.parallelism.ulysses: expected a divisor of the model's 8 attention heads, got 3; "
        "set ulysses 1 and ring 3 and leave the other degrees at 1",
    ),
    (
        {"spec.generation.height": 40},
        "spec.generation.height: expected a multiple of 16: the model's 4 pixels a token times ulysses * ring (4), "
        "got 40; set it to 32 or 48",
    ),
    (
        {"spec.generation.height": 80},
        "spec.generation.height: expected at most 64, the largest side that the model has positions for, got 80; "
        "set it to 64 or less",
    ),
    (
        {"spec.generation.width": 72},
        "spec.generation.width: expected at most 64, the largest side that the model has positions for, got 72; "
        "set it to 64 or less",
    ),
    (
        {"spec.parallelism": {"pipefusion": 4}},
        "spec.parallelism.pipefusion: expected stages that each get some of the model's 2 layers, got 4; "
        "set ulysses 1 and ring 4 and leave the other degrees at 1",
    ),
    (
        {"spec.parallelism": {"ring": 2, "pipefusion": 2}, "spec.generation.height": 40},
        "spec.generation.height: expected a multiple of 16: the model's 4 pixels a token times "
        "ulysses * ring * pipefusion (4), got 40; set it to 32 or 48",
    ),
    (
        {"spec.parallelism": {"ulysses": 4, "patchMode": "DistriFusion"}},
        "spec.parallelism.patchMode: expected None with ring 1: patches are the shards of a ring, got DistriFusion; "
        "set parallelism.ring to the number of patches or remove the field",
    ),
    (
        {"spec.parallelism": {"ring": 2, "pipefusion": 2, "patchMode": "DistriFusion"}},
        "spec.parallelism.patchMode: expected None or Gather with pipefusion above 1, whose patches are stale already, "
        "got DistriFusion; remove the field or set pipefusion to 1",
    ),
    (
        {"spec.model.dtype": "float16"},
        "spec.model.dtype: expected Auto, float32 or bfloat16 with accelerator cpu, got float16; set it to Auto",
    ),
]


@pytest.mark.parametrize(("changes", "sentence"), UNFIT, ids=[sentence.partition(",")[0] for _, sentence in UNFIT])
def test_what_the_model_cannot_do_is_refused_with_what_it_can(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    assert refusals(sd3_folder(tmp_path / "model"), changes) == [sentence]


@pytest.mark.parametrize(
    "degrees",
    [
        {"ulysses": 2, "cfg": 2},
        {"ring": 2, "cfg": 2},
        {"data": 4},
        {"data": 2, "ring": 2},
        {"pipefusion": 2, "cfg": 2},
        {"ring": 4, "patchMode": "DistriFusion"},
    ],
    ids=str,
)
def test_what_the_model_can_do_is_admitted(tmp_path: Path, degrees: dict[str, Any]) -> None:
    assert refusals(sd3_folder(tmp_path / "model"), {"spec.parallelism": degrees}) == []


def test_guidance_in_parallel_is_refused_for_a_model_without_a_second_branch(tmp_path: Path) -> None:
    (sentence,) = refusals(flux_folder(tmp_path / "flux"), {"spec.parallelism": {"ulysses": 2, "cfg": 2}})
    assert sentence.startswith("spec.parallelism.cfg: expected 1 for FluxPipeline (")
    assert sentence.endswith("got 2; set ulysses 2 and ring 2 and leave the other degrees at 1")


def test_the_patch_of_the_transformer_counts(tmp_path: Path) -> None:
    folder = sd3_folder(tmp_path / "model", patch=2)
    assert refusals(folder, {"spec.generation.height": 48}) == [
        "spec.generation.height: expected a multiple of 32: the model's 8 pixels a token times ulysses * ring (4), "
        "got 48; set it to 32 or 64"
    ]


def test_a_text_length_that_flux_cannot_split_is_refused(tmp_path: Path) -> None:
    folder = flux_folder(tmp_path / "flux", max_sequence_length=18)
    assert refusals(folder) == [
        "spec.parallelism: expected ulysses * ring to divide the model's 18 text tokens, got 4; "
        "set gpus 2, ulysses 2 and ring 1 and leave the other degrees at 1, "
        "or choose another max_sequence_length in MODEL/thinwire.json"
    ]


FRAMES = [
    (
        "CogVideoXPipeline",
        None,
        "a number of frames for a CogVideoXPipeline, which makes videos, got none; set it to 49",
    ),
    ("CogVideoXPipeline", 13, "1 more than a multiple of 8, got 13; set it to 9 or 17"),
    ("CogVideoXPipeline", 4, "1 more than a multiple of 8, got 4; set it to 9"),
    (
        "StableDiffusion3Pipeline",
        9,
        "no frames of a StableDiffusion3Pipeline, which makes pictures, got 9; remove the field",
    ),
]


@pytest.mark.parametrize(("pipeline", "frames", "sentence"), FRAMES)
def test_frames_that_a_model_does_not_make_are_refused(
    tmp_path: Path, pipeline: str, frames: int | None, sentence: str
) -> None:
    folder = sd3_folder(tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text())
    write_json(folder / "model_index.json", {**index, "_class_name": pipeline})
    changes = {} if frames is None else {"spec.generation.numFrames": frames}
    assert refusals(folder, changes) == [f"spec.generation.numFrames: expected {sentence}"]


def test_an_unknown_bundled_model_is_refused() -> None:
    job = DiffusionJob.from_raw(manifest({"spec.model.source": {"bundled": "no-such-model"}}))
    (refusal,) = preflight(job)
    assert refusal.field == "spec.model.source.bundled"
    assert refusal.got == '"no-such-model"'


def test_a_snapshot_in_the_hub_s_cache_is_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    source = {"spec.model.source": {"huggingFace": {"repo": "a/b"}}}
    job = DiffusionJob.from_raw(manifest(source))
    assert preflight(job) == []
    (refusal,) = local_preflight(job, tmp_path / "out", 0)
    assert str(refusal) == (
        "spec.model.source.huggingFace: expected a model on this machine, got a/b, which is not in the hub's cache; "
        "run `hf download a/b --revision main` first, or use path"
    )
    snapshot = sd3_folder(tmp_path / "models--a--b" / "snapshots" / "c0ffee")
    write(tmp_path / "models--a--b" / "refs" / "main", b"c0ffee\n")
    assert local_preflight(job, tmp_path / "out", 0) == []
    assert run_spec(job, attempt=1, output_dir=tmp_path).model.path == str(snapshot)


def test_what_only_a_cluster_has_is_refused_on_one_machine_alone(tmp_path: Path) -> None:
    changes = {
        "spec.model.source": {"persistentVolumeClaim": {"claimName": "models"}},
        "spec.generation.prompts": REMOVED,
        "spec.generation.promptsFrom": {"configMap": {"name": "words"}},
    }
    job = DiffusionJob.from_raw(manifest(changes))
    assert preflight(job) == []
    assert [str(refusal) for refusal in local_preflight(job, tmp_path / "out", 0)] == [
        "spec.model.source.persistentVolumeClaim: expected a model on this machine, got the volume claim models; "
        "use path or bundled, or a cluster",
        "spec.generation.promptsFrom: expected prompts in the manifest on this machine, got the ConfigMap words; "
        "list them under prompts",
    ]
    with pytest.raises(ValueError, match="expected a model_path"):
        run_spec(job, attempt=1, output_dir=tmp_path)


def test_accelerators_that_the_machine_lacks_are_refused(tmp_path: Path) -> None:
    job = job_with(sd3_folder(tmp_path / "model"), {"spec.accelerator": "nvidia.com/gpu"})
    sentences = {
        0: "spec.gpus: expected 4 of nvidia.com/gpu on this machine, got 0; set accelerator to cpu",
        2: "spec.gpus: expected 4 of nvidia.com/gpu on this machine, got 2; set gpus to 2 or accelerator to cpu",
    }
    for here, sentence in sentences.items():
        assert [str(refusal) for refusal in local_preflight(job, tmp_path / "out", here)] == [sentence]
    assert local_preflight(job, tmp_path / "out", 4) == []


def test_a_prompt_that_is_surely_cut_is_a_warning(tmp_path: Path) -> None:
    words = " ".join(["very"] * 15)
    folder = sd3_folder(tmp_path / "model")
    assert warnings(job_with(folder, {"spec.generation.prompts.0.prompt": words})) == [
        'prompt "rocket" has 15 words, and the model reads 14 at most: the rest is lost'
    ]


def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    assert [str(refusal) for refusal in output_refusals(in_the_way / "out", 1)] == [
        f"--output: expected a folder at {in_the_way}/out, got the file {in_the_way}; choose another folder"
    ]
    # The kernel takes no files in /proc, from nobody.
    (refusal,) = output_refusals(Path("/proc/out"), 1)
    assert (refusal.expected, refusal.remedy) == (
        "a folder that can be written at /proc/out",
        "choose another or change its rights",
    )


def test_an_output_without_room_is_refused(tmp_path: Path) -> None:
    (refusal,) = output_refusals(tmp_path / "a" / "b", 2**80)
    assert refusal.expected == f"{2**60} MiB free for {tmp_path}/a/b"
    assert refusal.remedy == "free some or choose another folder"
    assert not (tmp_path / "a").exists()


def test_room_is_asked_for_every_pixel_of_every_picture() -> None:
    job = DiffusionJob.from_raw(manifest())
    assert isinstance(job.generation, Generation)
    assert needed_bytes(job.generation) > 2 * 64 * 64 * 3


def test_the_families_are_those_of_the_runtime() -> None:
    runtime = pytest.importorskip("thinwire.runtime.families", reason="needs the extra runtime")
    fields = (
        "default_max_sequence_length",
        "text_must_divide",
        "guides_by_batch",
        "combines_inputs",
        "makes_video",
        "guides_by_forwards",
        "shares_rows",
    )
    ours = {family.pipeline: tuple(getattr(family, field) for field in fields) for family in FAMILIES}
    theirs = {family.pipeline_class: tuple(getattr(family, field) for field in fields) for family in runtime.FAMILIES}
    assert ours == theirs


def test_the_families_are_those_that_a_manifest_may_name() -> None:
    assert schema_at(root_schema(), ("spec", "model", "pipeline"))["enum"] == [one.pipeline for one in FAMILIES]
