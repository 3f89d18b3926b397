"""Every CEL rule of the CRD: one object that it refuses, and its sentence; and one at its edge that it accepts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.controller.manifest.manifests import MINIMAL, REMOVED, manifest
from thinwire.controller.manifest.schema import Schema, root_schema
from thinwire.controller.manifest.validate import validate

PRODUCT = (
    "self.parallelism.ulysses * self.parallelism.ring * self.parallelism.pipefusion * self.parallelism.cfg"
    " * self.parallelism.data"
)
INSIDE = "!self.startsWith('/') && !self.matches('(^|/)[.][.](/|$)')"
LEAVES = 'expected a folder inside the volume, got a path that leaves it; write it relative and without ".."'
CLAIM = {"claimName": "models"}


@dataclass(frozen=True)
class Case:
    rule: str
    refused: dict[str, Any]
    sentence: str
    accepted: dict[str, Any]
    before: dict[str, Any] | None = None


CASES = (
    Case(
        "self.metadata.name.matches('^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$')",
        {"metadata.name": "a" * 41},
        "metadata.name: expected at most 40 lower-case letters, digits and inner dashes, beginning with a letter, "
        f'got "{"a" * 41}"; rename the job',
        {"metadata.name": "a" * 40},
    ),
    Case(
        "[has(self.bundled), has(self.path), has(self.persistentVolumeClaim), has(self.huggingFace)]"
        ".filter(x, x).size() == 1",
        {"spec.model.source": {"bundled": "emoji", "path": "models/x"}},
        "spec.model.source: expected exactly one of bundled, path, persistentVolumeClaim and huggingFace, got 2; "
        "keep the one that holds the model",
        {"spec.model.source": {"huggingFace": {"repo": "a/b"}}},
    ),
    Case(
        INSIDE,
        {"spec.model.source": {"persistentVolumeClaim": {**CLAIM, "path": "a/../../b"}}},
        f"spec.model.source.persistentVolumeClaim.path: {LEAVES}",
        {"spec.model.source": {"persistentVolumeClaim": {**CLAIM, "path": "a..b/..c"}}},
    ),
    Case(
        INSIDE,
        {"spec.output": {"persistentVolumeClaim": {**CLAIM, "path": "/etc"}}},
        f"spec.output.persistentVolumeClaim.path: {LEAVES}",
        {"spec.output": {"persistentVolumeClaim": CLAIM}},
    ),
    Case(
        "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
        {"spec.generation.prompts.0.name": "a-"},
        "spec.generation.prompts[0].name: expected lower-case letters, digits and inner dashes, "
        'got "a-"; rename it: the picture is written to images/NAME.png',
        {"spec.generation.prompts.0.name": "0-a"},
    ),
    Case(
        "self.matches('[^ \\t\\r\\n]')",
        {"spec.generation.prompts.0.prompt": "  "},
        "spec.generation.prompts[0].prompt: expected words, got an empty text; say what the picture shows",
        {"spec.generation.prompts.0.prompt": " x"},
    ),
    Case(
        f"!self.parallelism.auto || {PRODUCT} == 1",
        {"spec.parallelism": {"auto": True, "ring": 4}},
        "spec.parallelism.auto: expected no degrees beside it, got some; remove the degrees, or auto to keep them",
        {"spec.parallelism": {"auto": True}},
    ),
    Case(
        "!has(self.parallelism.linkMebibytesPerSecond) || self.parallelism.auto",
        {"spec.parallelism.linkMebibytesPerSecond": 100},
        "spec.parallelism.linkMebibytesPerSecond: expected auto beside it, got none; "
        "set parallelism.auto to true or remove linkMebibytesPerSecond",
        {"spec.parallelism": {"auto": True, "linkMebibytesPerSecond": 100}},
    ),
    Case(
        "!has(self.framesPerSecond) || has(self.numFrames)",
        {"spec.generation.framesPerSecond": 8},
        "spec.generation.framesPerSecond: expected numFrames beside it, got none; "
        "set generation.numFrames or remove framesPerSecond",
        {"spec.generation.framesPerSecond": 8, "spec.generation.numFrames": 49},
    ),
    Case(
        "has(self.promptsFrom) || (has(self.prompts) && size(self.prompts) > 0)",
        {"spec.generation.prompts": []},
        "spec.generation.prompts: expected at least one prompt, got none; "
        "add an entry with name and prompt, or promptsFrom",
        {"spec.generation.prompts": REMOVED, "spec.generation.promptsFrom": {"configMap": {"name": "x"}}},
    ),
    Case(
        "!has(self.promptsFrom) || !has(self.prompts) || size(self.prompts) == 0",
        {"spec.generation.promptsFrom": {"configMap": {"name": "x"}}},
        "spec.generation.promptsFrom: expected either prompts or promptsFrom, got both; remove one of them",
        {"spec.generation.prompts": [], "spec.generation.promptsFrom": {"configMap": {"name": "x"}}},
    ),
    Case(
        f"self.parallelism.auto || {PRODUCT} == self.gpus",
        {"spec.parallelism": {"ring": 2}},
        "spec.parallelism: expected ulysses * ring * pipefusion * cfg * data to equal gpus (4), got 2; "
        "set gpus to 2 or raise a degree",
        {"spec.parallelism": {"ring": 2, "pipefusion": 2, "cfg": 2, "data": 3}, "spec.gpus": 24},
    ),
    Case(
        "self.gpusPerPod < 1 || self.gpus % self.gpusPerPod == 0",
        {"spec.gpusPerPod": 3},
        "spec.gpusPerPod: expected a divisor of gpus (4), got 3; every pod holds as many ranks as every other",
        {"spec.gpusPerPod": 4},
    ),
    Case(
        "self.compression.rate.minMillibits <= self.compression.rate.maxMillibits",
        {"spec.compression.rate": {"minMillibits": 2001, "maxMillibits": 2000}},
        "spec.compression.rate: expected minMillibits to be at most maxMillibits (2000), got 2001; "
        "swap them or lower minMillibits",
        {"spec.compression.rate": {"minMillibits": 2000, "maxMillibits": 2000}},
    ),
    Case(
        "self.compression.mode != 'Fixed' || self.compression.rate.minMillibits >= self.compression.rate.maxMillibits",
        {"spec.compression": {"mode": "Fixed", "rate": {"maxMillibits": 2000}}},
        "spec.compression.rate: expected minMillibits to equal maxMillibits with mode Fixed, got 1000 and 2000; "
        "set both to the rate that is wanted or use mode Adaptive",
        {"spec.compression": {"mode": "Fixed", "rate": {"minMillibits": 2000, "maxMillibits": 2000}}},
    ),
    Case(
        "self.compression.warmupSteps < self.generation.steps",
        {"spec.compression.warmupSteps": 28},
        "spec.compression.warmupSteps: expected fewer than generation.steps (28), got 28; "
        'lower it: a job that is to send every step whole has mode "Off"',
        {"spec.compression.warmupSteps": 27},
    ),
    Case(
        "self.parallelism.cfg == 1 || self.generation.guidanceScaleMilli > 1000",
        {"spec.parallelism": {"ring": 2, "cfg": 2}, "spec.generation.guidanceScaleMilli": 1000},
        "spec.parallelism.cfg: expected 1 without guidance, got 2; "
        "set it to 1 or generation.guidanceScaleMilli above 1000",
        {"spec.parallelism": {"ring": 2, "cfg": 2}, "spec.generation.guidanceScaleMilli": 1001},
    ),
    Case(
        "self.model == oldSelf.model",
        {"spec.model.source": {"bundled": "other"}},
        "spec.model: expected the model that the job began with, got another; make a new job for it",
        {"spec.model.dtype": "Auto"},
        MINIMAL,
    ),
    Case(
        "self.gpus == oldSelf.gpus",
        {"spec.gpus": 8, "spec.parallelism": {}},
        "spec.gpus: expected the 4 that the job began with, got 8; make a new job for it",
        {"spec.gpus": 4},
        MINIMAL,
    ),
    Case(
        "self.gpusPerPod == oldSelf.gpusPerPod",
        {"spec.gpusPerPod": 2},
        "spec.gpusPerPod: expected the 1 that the job began with, got 2; make a new job for it",
        {"spec.gpusPerPod": 1},
        MINIMAL,
    ),
    Case(
        "self.accelerator == oldSelf.accelerator",
        {"spec.accelerator": "nvidia.com/gpu"},
        "spec.accelerator: expected the cpu that the job began with, got nvidia.com/gpu; make a new job for it",
        {"spec.accelerator": "cpu"},
        MINIMAL,
    ),
    Case(
        "self.parallelism == oldSelf.parallelism",
        {"spec.parallelism": {"ring": 4}},
        "spec.parallelism: expected the degrees that the job began with, got others; make a new job for them",
        {"spec.parallelism.cfg": 1},
        MINIMAL,
    ),
    Case(
        "self.compression.mode == oldSelf.compression.mode"
        " && self.compression.maxRelativeErrorMilli == oldSelf.compression.maxRelativeErrorMilli"
        " && self.compression.warmupSteps == oldSelf.compression.warmupSteps"
        " && self.compression.baseMemoryMebibytes == oldSelf.compression.baseMemoryMebibytes"
        " && self.compression.predictorOrder == oldSelf.compression.predictorOrder",
        {"spec.compression.warmupSteps": 2},
        "spec.compression: expected changes of rate and targetStallPercent only, got another change; "
        "make a new job for it",
        {
            "spec.compression.rate": {"minMillibits": 500, "maxMillibits": 4000},
            "spec.compression.targetStallPercent": 5,
        },
        MINIMAL,
    ),
    Case(
        "self.generation == oldSelf.generation",
        {"spec.generation.prompts.0.seed": 5},
        "spec.generation: expected what the job began with, got a change; make a new job for other pictures",
        {"spec.generation.prompts.0.seed": 0},
        MINIMAL,
    ),
    Case(
        "has(self.output) == has(oldSelf.output) && (!has(self.output) || self.output == oldSelf.output)",
        {"spec.output": {"persistentVolumeClaim": CLAIM}},
        "spec.output: expected the volume that the job began with, got another; make a new job for it",
        {},
        MINIMAL,
    ),
    Case(
        "has(self.podTemplate) == has(oldSelf.podTemplate)"
        " && (!has(self.podTemplate) || self.podTemplate == oldSelf.podTemplate)",
        {"spec.podTemplate": {"spec": {"nodeSelector": {"zone": "b"}}}},
        "spec.podTemplate: expected the template that the job began with, got another; make a new job for it",
        {"spec.podTemplate": {"spec": {"nodeSelector": {"zone": "a"}}}},
        manifest({"spec.podTemplate": {"spec": {"nodeSelector": {"zone": "a"}}}}),
    ),
)


def rules_of(schema: Schema) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", ()):
        yield rule["rule"]
    children = [*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])]
    for child in children:
        yield from rules_of(child)


def test_every_rule_of_the_crd_has_a_case() -> None:
    assert sorted(rules_of(root_schema())) == sorted(case.rule for case in CASES)


@pytest.mark.parametrize("case", CASES, ids=[case.sentence.partition(": expected")[0] for case in CASES])
def test_a_rule_refuses_with_its_sentence(case: Case) -> None:
    refusals = [str(refusal) for refusal in validate(manifest(case.refused), case.before)]
    assert case.sentence in refusals
    own_field = case.sentence.partition(": expected")[0]
    immutable = (": expected the 4", ": expected the degrees")
    others = [other for other in refusals if not any(text in other for text in immutable)]
    assert all(other.startswith(own_field) or "to equal gpus" in other for other in others)


@pytest.mark.parametrize("case", CASES, ids=[case.sentence.partition(": expected")[0] for case in CASES])
def test_a_rule_accepts_what_is_just_right(case: Case) -> None:
    assert validate(manifest(case.accepted), case.before) == []


def test_a_pod_template_that_is_taken_away_is_a_change() -> None:
    before = manifest({"spec.podTemplate": {"spec": {}}})
    fields = [refusal.field for refusal in validate(manifest(), before)]
    assert fields == ["spec.podTemplate"]


def test_a_job_may_be_suspended_and_given_more_restarts_while_it_runs() -> None:
    changes = {"spec.runPolicy": {"suspend": True, "maxRestarts": 9, "activeDeadlineSeconds": 60}}
    assert validate(manifest(changes), MINIMAL) == []
