"""What holds for every manifest: valid ones reach the ranks as they were written, others never cause an accident."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.controller.manifest.jobs import manifests
from tests.controller.manifest.manifests import manifest
from thinwire.controller.manifest.defaults import defaulted
from thinwire.controller.manifest.job import DiffusionJob
from thinwire.controller.manifest.load import parse
from thinwire.controller.manifest.run_spec import run_spec
from thinwire.controller.manifest.summary import summary
from thinwire.controller.manifest.validate import validate
from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import CompressionMode, Dtype, RunSpec

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=8), inner, max_size=2),
    max_leaves=4,
)
PLACES = (
    "metadata", "metadata.name", "metadata.labels", "spec", "spec.model", "spec.model.source", "spec.gpus",
    "spec.gpusPerPod", "spec.accelerator", "spec.parallelism", "spec.parallelism.ring", "spec.compression",
    "spec.compression.mode", "spec.compression.rate", "spec.compression.rate.maxMillibits", "spec.generation",
    "spec.generation.prompts", "spec.generation.prompts.0", "spec.generation.prompts.0.name", "spec.generation.steps",
    "spec.output", "spec.runPolicy", "spec.podTemplate", "spec.podTemplate.metadata", "status",
)  # fmt: skip


@given(manifests())
@settings(max_examples=30)
def test_a_random_valid_job_is_accepted_and_reaches_the_ranks_as_it_was_written(raw: dict[str, Any]) -> None:
    assert validate(raw) == []
    job = DiffusionJob.from_raw(raw)
    assert len(summary(job).splitlines()) == 1
    spec = run_spec(job, attempt=2, output_dir=Path("/out"), telemetry_address="a:1", model_path=Path("/model"))
    again = json_format.Parse(json_format.MessageToJson(spec), RunSpec())
    assert again == spec
    written = defaulted(raw)["spec"]
    assert (spec.job_name, spec.attempt, spec.output_dir, spec.model.path) == (job.name, 2, "/out", "/model")
    assert spec.parallelism.ulysses * spec.parallelism.ring * spec.parallelism.data == job.gpus
    assert CompressionMode.Name(spec.compression.mode).endswith(written["compression"]["mode"].upper())
    assert spec.compression.min_millibits == written["compression"]["rate"]["minMillibits"]
    assert spec.compression.max_millibits == written["compression"]["rate"]["maxMillibits"]
    assert spec.compression.target_stall_percent == written["compression"]["targetStallPercent"]
    assert spec.compression.max_relative_error_milli == written["compression"]["maxRelativeErrorMilli"]
    assert spec.compression.base_memory_mebibytes == written["compression"]["baseMemoryMebibytes"]
    assert spec.compression.predictor_order == written["compression"]["predictorOrder"]
    assert [
        {"name": p.name, "prompt": p.prompt, "negativePrompt": p.negative_prompt, "seed": p.seed}
        for p in spec.generation.prompts
    ] == written["generation"]["prompts"]
    assert (spec.generation.height, spec.generation.width) == (job.generation.height, job.generation.width)
    assert spec.generation.guidance_scale_milli == written["generation"]["guidanceScaleMilli"]
    wanted = {"Auto": "FLOAT32" if job.accelerator == "cpu" else "BFLOAT16"}
    dtype = written["model"]["dtype"]
    assert Dtype.Name(spec.model.dtype) == "DTYPE_" + wanted.get(dtype, dtype.upper())


@given(manifests())
@settings(max_examples=30)
def test_a_job_that_is_written_as_yaml_is_read_as_it_was(raw: dict[str, Any]) -> None:
    assert parse(yaml.safe_dump(raw)).raw == raw


@given(manifests())
@settings(max_examples=20)
def test_defaults_change_nothing_that_is_there_already(raw: dict[str, Any]) -> None:
    assert defaulted(defaulted(raw)) == defaulted(raw)
    assert validate(defaulted(raw), before=raw) == []


@given(st.sampled_from(PLACES), JUNK)
@settings(max_examples=100)
def test_junk_anywhere_is_refused_in_sentences_or_harmless(place: str, junk: Any) -> None:
    raw = manifest({place: junk})
    refusals = validate(raw)
    assert all(len(str(refusal).splitlines()) == 1 for refusal in refusals)
    if not refusals:
        DiffusionJob.from_raw(raw)
