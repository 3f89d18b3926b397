"""What a rank would refuse is refused before any rank starts, and what the refusal says to do instead works.

Every family, all degrees for at most six ranks, every patch mode, several sizes: preflight beside the runtime's own
checks, on whole models, without a rank.
"""

import itertools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.controller.manifest.manifests import manifest
from tests.harness.families import frames_of
from tests.runtime.test_families import FOLDERS
from thinwire.controller.manifest.job import DiffusionJob
from thinwire.controller.manifest.preflight import preflight
from thinwire.controller.manifest.refusal import Refusal
from thinwire.controller.manifest.run_spec import run_spec
from thinwire.controller.manifest.validate import validate
from thinwire.runtime.model import load_model, refuse_impossible_size, refuse_what_upstream_gets_wrong
from thinwire.runtime.parallel import Degrees

DEGREES = ("ulysses", "ring", "pipefusion", "cfg", "data")
CASES = (("None", 64), ("None", 48), ("Gather", 64), ("DistriFusion", 64))
"""Patch mode and size."""
MOST_RANKS = 6
_DEGREES_INSTEAD = re.compile(r"set (?:gpus (?P<gpus>\d+), )?ulysses (?P<ulysses>\d+) and ring (?P<ring>\d+) and leave")
_NUMBERS_INSTEAD = re.compile(r"set it to (?P<lower>\d+)(?: or (?P<upper>\d+))?")


def combinations(folder: Path, pipeline: str) -> Iterator[dict[str, Any]]:
    """Manifests that the API server takes: what it refuses itself is left out."""
    for numbers in itertools.product((1, 2, 3, 4), (1, 2, 3, 4), (1, 2, 3, 4), (1, 2), (1, 2)):
        if math.prod(numbers) > MOST_RANKS:
            continue
        for patch_mode, pixels in CASES:
            degrees = dict(zip(DEGREES, numbers, strict=True)) | {"patchMode": patch_mode}
            changes = {
                "spec.model": {"source": {"path": str(folder)}, "dtype": "float32"},
                "spec.gpus": math.prod(numbers),
                "spec.parallelism": degrees,
                "spec.generation.height": pixels,
                "spec.generation.width": pixels,
                "spec.generation.guidanceScaleMilli": 3000,
            }
            frames = frames_of(pipeline)
            raw = manifest(changes | ({"spec.generation.numFrames": frames} if frames else {}))
            if not validate(raw):
                yield raw


def mended(raw: dict[str, Any], refusals: list[Refusal]) -> dict[str, Any]:
    """Do what the first refusal says; a remedy that names nothing to set cannot be done and fails the test."""
    (refusal, *_) = refusals
    parallelism = dict(raw["spec"]["parallelism"])
    changes: dict[str, Any] = {"spec": raw["spec"]}
    if degrees := _DEGREES_INSTEAD.match(refusal.remedy):
        found = {name: int(degrees[name]) for name in ("ulysses", "ring")}
        found |= {name: mode for name, mode in parallelism.items() if name == "patchMode"}
        changes |= {"spec.parallelism": found, "spec.gpus": int(degrees["gpus"] or raw["spec"]["gpus"])}
    elif number := _NUMBERS_INSTEAD.match(refusal.remedy):
        changes |= {refusal.field: int(number["upper"] or number["lower"])}
    else:
        assert "remove the field" in refusal.remedy, str(refusal)
        assert refusal.field == "spec.parallelism.patchMode", str(refusal)
        changes |= {"spec.parallelism": {name: degree for name, degree in parallelism.items() if name != "patchMode"}}
    return manifest(changes)


@pytest.mark.parametrize("pipeline", sorted(FOLDERS))
def test_no_rank_refuses_what_preflight_admits_and_every_remedy_works(tmp_path: Path, pipeline: str) -> None:
    folder = FOLDERS[pipeline](tmp_path / "model")
    model, admitted, refused = None, 0, 0
    for raw in combinations(folder, pipeline):
        job = DiffusionJob.from_raw(raw)
        refusals = preflight(job)
        if refusals:
            refused += 1
            for _ in range(4):
                raw = mended(raw, refusals)
                if not (refusals := preflight(DiffusionJob.from_raw(raw))):
                    break
            assert refusals == [], raw
            continue
        admitted += 1
        spec = run_spec(job, attempt=1, output_dir=tmp_path)
        model = model or load_model(spec.model, torch.device("cpu"), lambda *_: None)
        refuse_impossible_size(model, spec.generation.height, spec.generation.width)
        shape = model.attention_shape(spec.generation)
        refuse_what_upstream_gets_wrong(shape, model.family, Degrees.from_spec(spec.parallelism))
    assert admitted > 20
    assert refused > 20
