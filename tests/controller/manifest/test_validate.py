"""Bad manifests: one sentence each, the whole of it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.controller.manifest.manifests import MINIMAL, REMOVED, manifest
from thinwire.controller.manifest.preflight.families import FAMILIES
from thinwire.controller.manifest.validate import validate

SPEC_FIELDS = (
    "model, gpus, gpusPerPod, accelerator, parallelism, compression, generation, output, runPolicy, podTemplate"
)
PRODUCT = "spec.parallelism: expected ulysses * ring * pipefusion * cfg * data to equal gpus"

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"spec.gpu": 4}, f"spec.gpu: expected one of {SPEC_FIELDS}, got an unknown field; write gpus or remove it"),
    (
        {"specs": {}},
        "specs: expected one of apiVersion, kind, metadata, spec, status, "
        "got an unknown field; write spec or remove it",
    ),
    (
        {"spec.generation.prompts.0.text": "x"},
        "spec.generation.prompts[0].text: expected one of name, prompt, negativePrompt, seed, "
        "got an unknown field; remove it",
    ),
    (
        {"spec.podTemplate.image": "x"},
        "spec.podTemplate.image: expected one of metadata, spec, got an unknown field; remove it",
    ),
    (
        {"metadata.color": "x"},
        "metadata.color: expected one of name, namespace, labels, annotations, got an unknown field; remove it",
    ),
    ({"metadata.labels": {"a": 1}}, "metadata.labels.a: expected a string, got 1; put it in quotes"),
    ({"metadata.labels": "a"}, "metadata.labels: expected a map, got a; write one KEY: VALUE to a line"),
    (
        {"metadata.namespace": "A/B"},
        "metadata.namespace: expected a DNS label, "
        "got A/B; write the name of a namespace, or remove it for the present one",
    ),
    ({"metadata.name": REMOVED}, "metadata.name: expected a value, got none; add it: name of the job"),
    ({"metadata": REMOVED}, "metadata.name: expected a value, got none; add it: name of the job"),
    ({"metadata": []}, "metadata: expected a map, got a list; write a map"),
    (
        {"apiVersion": "v1"},
        'apiVersion: expected thinwire.dev/v1alpha1, got v1; write "apiVersion: thinwire.dev/v1alpha1"',
    ),
    ({"kind": "Job"}, 'kind: expected DiffusionJob, got Job; write "kind: DiffusionJob"'),
    ({"kind": REMOVED}, 'kind: expected DiffusionJob, got nothing; write "kind: DiffusionJob"'),
    ({"spec": REMOVED}, "spec: expected a value, got none; add it: what is wanted"),
    ({"spec.gpus": "4"}, 'spec.gpus: expected an integer, got "4"; remove the quotes'),
    (
        {"spec.gpus": "four"},
        "spec.gpus: expected an integer, "
        'got "four"; write an integer: ranks in all; one accelerator (or, on cpu, one process) each',
    ),
    ({"spec.gpus": 4.5}, "spec.gpus: expected an integer, got 4.5; write it without a fraction"),
    (
        {"spec.gpus": True},
        "spec.gpus: expected an integer, "
        "got true; write an integer: ranks in all; one accelerator (or, on cpu, one process) each",
    ),
    (
        {"spec.gpus": [4]},
        "spec.gpus: expected an integer, "
        "got a list; write an integer: ranks in all; one accelerator (or, on cpu, one process) each",
    ),
    (
        {"spec.gpus": REMOVED},
        "spec.gpus: expected a value, got none; add it: ranks in all; one accelerator (or, on cpu, one process) each",
    ),
    ({"spec.generation": None}, "spec.generation: expected a value, got none; add it: what is drawn"),
    (
        {"spec.generation.prompts": "rocket"},
        'spec.generation.prompts: expected a list, got "rocket"; write a list: the pictures, one by one',
    ),
    (
        {"spec.generation.prompts.0": "rocket"},
        'spec.generation.prompts[0]: expected a map, got "rocket"; write a map: one picture',
    ),
    (
        {"spec.generation.prompts.0.prompt": 7},
        "spec.generation.prompts[0].prompt: expected a string, got 7; put it in quotes",
    ),
    ({"spec.runPolicy.suspend": "no"}, 'spec.runPolicy.suspend: expected true or false, got "no"; write true or false'),
    (
        {"spec.compression.mode": False},
        "spec.compression.mode: expected a string, "
        'got false; write "Off" with its quotes: YAML reads a bare Off as false',
    ),
    (
        {"spec.compression.mode": "adaptive"},
        'spec.compression.mode: expected one of Adaptive, Fixed, Off, got "adaptive"; write Adaptive',
    ),
    (
        {"spec.compression.mode": "x"},
        'spec.compression.mode: expected one of Adaptive, Fixed, Off, got "x"; choose one of them',
    ),
    (
        {"spec.model.pipeline": "StableDiffusionXLPipeline"},
        f"spec.model.pipeline: expected one of {', '.join(family.pipeline for family in FAMILIES)}, "
        'got "StableDiffusionXLPipeline"; write StableDiffusion3Pipeline',
    ),
    ({"spec.generation.steps": 1}, "spec.generation.steps: expected at least 2, got 1; raise it"),
    ({"spec.generation.steps": 1001}, "spec.generation.steps: expected at most 1000, got 1001; lower it"),
    ({"spec.compression.warmupSteps": 0}, "spec.compression.warmupSteps: expected at least 1, got 0; raise it"),
    ({"spec.parallelism.data": 0}, "spec.parallelism.data: expected at least 1, got 0; raise it"),
    ({"spec.generation.height": 100}, "spec.generation.height: expected a multiple of 8, got 100; set it to 96 or 104"),
    ({"spec.generation.prompts.0.seed": -1}, "spec.generation.prompts[0].seed: expected at least 0, got -1; raise it"),
    (
        {"spec.generation.prompts.0.name": "a" * 64},
        "spec.generation.prompts[0].name: expected at most 63 characters, got 64; shorten it",
    ),
    (
        {"spec.generation.prompts.0.prompt": "a" * 2001},
        "spec.generation.prompts[0].prompt: expected at most 2000 characters, got 2001; shorten it",
    ),
    (
        {"spec.model.source": {"path": ""}},
        "spec.model.source.path: expected at least 1 characters, got 0; "
        "fill it in: folder of the model: in the image of the ranks, or on this machine for `thinwire run`",
    ),
    (
        {"spec.accelerator": "gpu"},
        "spec.accelerator: expected text that matches "
        "^(cpu|[a-z0-9]([-.a-z0-9]*[a-z0-9])?/[A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?)$, "
        'got "gpu"; rewrite it: resource that a rank asks for, such as nvidia.com/gpu, or cpu',
    ),
    (
        {"spec.generation.prompts": [{"name": f"p{n}", "prompt": "x"} for n in range(1025)]},
        "spec.generation.prompts: expected at most 1024 entries, got 1025; remove some",
    ),
    (
        {"spec.generation.prompts.1.name": "rocket"},
        'spec.generation.prompts[1].name: expected a name of its own, got "rocket" again, '
        "as in spec.generation.prompts[0]; rename one of the two",
    ),
    ({"spec.gpus": 8}, f"{PRODUCT} (8), got 4; set gpus to 4 or raise a degree"),
    ({"spec.parallelism.ring": 4}, f"{PRODUCT} (4), got 8; set gpus to 8 or lower a degree"),
    (
        {"spec.generation.prompts": []},
        "spec.generation.prompts: expected at least one prompt, "
        "got none; add an entry with name and prompt, or promptsFrom",
    ),
    (
        {"spec.generation.prompts": REMOVED},
        "spec.generation.prompts: expected at least one prompt, "
        "got none; add an entry with name and prompt, or promptsFrom",
    ),
    (
        {"spec.generation.prompts.0.prompt": " \n"},
        "spec.generation.prompts[0].prompt: expected words, got an empty text; say what the picture shows",
    ),
    (
        {"spec.compression.rate": {"minMillibits": 4000, "maxMillibits": 2000}},
        "spec.compression.rate: expected minMillibits to be at most maxMillibits (2000), got 4000; "
        "swap them or lower minMillibits",
    ),
    (
        {"spec.compression.mode": "Fixed"},
        "spec.compression.rate: expected minMillibits to equal maxMillibits with mode Fixed, got 1000 and 16000; "
        "set both to the rate that is wanted or use mode Adaptive",
    ),
    *(
        (
            {"spec.generation.prompts.0.name": name},
            "spec.generation.prompts[0].name: expected lower-case letters, digits and inner dashes, "
            f'got "{shown}"; rename it: the picture is written to images/NAME.png',
        )
        for name, shown in {
            "../secret": "../secret",
            "/etc/passwd": "/etc/passwd",
            "..": "..",
            "": "",
            ".hidden": ".hidden",
            "a/b": "a/b",
            "Rocket": "Rocket",
            "rocket\n": "rocket\\n",
            "a\u0000b": "a\\x00b",
        }.items()
    ),
]


@pytest.mark.parametrize(("changes", "sentence"), REFUSED, ids=[sentence[:60] for _, sentence in REFUSED])
def test_a_bad_manifest_is_refused_in_one_whole_sentence(changes: dict[str, Any], sentence: str) -> None:
    assert [str(refusal) for refusal in validate(manifest(changes))] == [sentence]


def test_the_minimal_manifest_is_valid() -> None:
    assert validate(MINIMAL) == []


def test_every_mistake_is_named_at_once() -> None:
    changes = {
        "spec.gpus": 8,
        "spec.color": "red",
        "spec.generation.steps": "28",
        "spec.generation.prompts.0.name": "../x",
        "spec.compression.rate": {"minMillibits": 3, "maxMillibits": 2000},
    }
    fields = {refusal.field for refusal in validate(manifest(changes))}
    assert fields == {
        "spec.parallelism",
        "spec.color",
        "spec.generation.steps",
        "spec.generation.prompts[0].name",
        "spec.compression.rate.minMillibits",
    }


def test_a_rule_that_cannot_look_says_nothing_about_what_the_schema_refused() -> None:
    changes = {"spec.gpus": "8", "spec.generation.prompts.0": 3}
    assert {refusal.field for refusal in validate(manifest(changes))} == {"spec.gpus", "spec.generation.prompts[0]"}


def test_a_pod_template_may_hold_what_a_pod_holds() -> None:
    changes = {"spec.podTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"nodeSelector": {"zone": "a"}}}}
    assert validate(manifest(changes)) == []


def test_what_the_cluster_wrote_back_is_still_valid() -> None:
    changes = {
        "metadata": {"name": "job", "uid": "1", "resourceVersion": "2", "generation": 1, "creationTimestamp": "now"},
        "status": {"state": "Running", "progress": {"summary": "1/8", "promptsDone": 1}},
    }
    assert validate(manifest(changes)) == []


def test_the_object_that_is_checked_stays_as_it_was() -> None:
    raw = manifest()
    validate(raw)
    assert raw == MINIMAL
