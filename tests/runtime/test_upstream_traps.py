"""Traps of xfuser that no other file shows mended or refused (docs/strategies.md)."""

from pathlib import Path

import numpy
import pytest
import torch

from tests.controller.local.runs import fake_run
from tests.controller.manifest.manifests import manifest
from tests.harness.sessions import FLUX, OFF, SD3, Job, pictures_of, run_job
from tests.runtime.exchange.test_exactness import TOLERANCE, difference
from thinwire.controller.local.files import StateFolder
from thinwire.controller.local.launcher import gang_command
from thinwire.controller.manifest.validate import validate
from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import Dtype

pytestmark = pytest.mark.distributed


@pytest.mark.parametrize("mode", [OFF, 2])
def test_pipefusion_without_warm_up_steps_has_one_all_the_same(tiny_sd3: Path, mode: int) -> None:
    none, one = (
        pictures_of(run_job(Job(tiny_sd3, SD3, ring=1, pipefusion=2, mode=mode, millibits=8000, warmup_steps=steps)))[0]
        for steps in (0, 1)
    )
    numpy.testing.assert_array_equal(none, one)


def test_pipefusion_receives_in_the_model_s_own_type(tiny_flux: Path) -> None:
    """In float16, upstream's default, an exact run in float32 could not be exact."""
    assert difference(Job(tiny_flux, FLUX, ring=1, pipefusion=2, mode=OFF, warmup_steps=4)) <= TOLERANCE
    half = Job(tiny_flux, FLUX, ring=1, pipefusion=2, millibits=8000, dtype=Dtype.DTYPE_BFLOAT16)
    (picture,) = pictures_of(run_job(half))
    assert torch.isfinite(torch.from_numpy(picture)).all()


def test_ranks_leave_a_prompt_together_so_that_the_last_sends_arrive(tiny_sd3: Path) -> None:
    for _ in range(3):
        run_job(Job(tiny_sd3, SD3, ring=1, pipefusion=2, cfg=2, mode=OFF, steps=3))


def test_ranks_take_no_options_that_torchrun_could_take_for_its_own(tmp_path: Path) -> None:
    """torchrun reads a script's `--run` as its own `--run-path`: what ranks need is in files and the environment."""
    command = gang_command(fake_run(tmp_path, "thinwire.runtime"), StateFolder(tmp_path), 1)
    assert command[-2:] == ["--module", "thinwire.runtime"]


def test_tensor_parallelism_which_changes_nothing_upstream_cannot_be_asked_for() -> None:
    (refusal,) = validate(manifest({"spec.parallelism.tensor": 2}))
    assert str(refusal).startswith("spec.parallelism.tensor: expected one of ")
    assert "got an unknown field" in str(refusal)
