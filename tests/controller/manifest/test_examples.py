"""What is shown to users is valid, and what is written of the CRD is what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from thinwire.controller.manifest.job import DiffusionJob
from thinwire.controller.manifest.load import load
from thinwire.controller.manifest.preflight import preflight, warnings
from thinwire.controller.manifest.preflight.geometry import release_refusals
from thinwire.controller.manifest.validate import validate

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.name for path in EXAMPLES])
def test_an_example_is_valid_and_this_release_runs_it(path: Path) -> None:
    raw = load(path)
    assert validate(raw) == []
    assert release_refusals(DiffusionJob.from_raw(raw), None) == []


def test_the_first_example_is_four_ranks_and_eight_pictures() -> None:
    job = DiffusionJob.from_raw(load(ROOT / "examples" / "emoji.yaml"))
    assert (job.gpus, job.parallelism.ring, job.parallelism.ulysses, job.accelerator) == (4, 2, 2, "cpu")
    assert len(job.generation.prompts) == 8
    assert preflight(job) == []
    assert warnings(job) == []


def test_the_reference_is_what_the_crd_gives() -> None:
    script = ROOT / "docs" / "generate_crd_reference.py"
    checked = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
