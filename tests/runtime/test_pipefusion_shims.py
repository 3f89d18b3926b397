"""Upstream's own PipeFusion runs over gloo with the shims it needs there."""

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from tests.harness.ranks import run_ranks
from tests.harness.sessions import SD3, Job
from thinwire.runtime.model import load_model, parallelise
from thinwire.runtime.parallel import Degrees, Launch, open_world
from thinwire.runtime.reference import Reference, call_arguments

pytestmark = pytest.mark.distributed


def pipefusion_picture(launch: Launch, job: Job, warmup_steps: int) -> Any:
    spec = job.spec()
    world = open_world(Degrees(pipefusion=2), launch)
    try:
        torch.set_num_threads(1)
        model = load_model(spec.model, world.device, lambda *_: None)
        prompt = spec.generation.prompts[0]
        text = model.encode(prompt.prompt, prompt.negative_prompt, 3.0)
        pipeline = parallelise(model, spec.model.path, world, warmup_steps)
        output = pipeline(**text, guidance_scale=3.0, **call_arguments(spec.generation, prompt))
        return None if output is None else output.images[0]
    finally:
        world.close()


@pytest.mark.parametrize(("warmup_steps", "tolerance"), [(4, 1e-4), (1, 1.0)], ids=["exact", "stale by design"])
def test_sd3_runs_in_two_stages(tiny_sd3: Path, warmup_steps: int, tolerance: float) -> None:
    job = Job(tiny_sd3, SD3, ring=1, pipefusion=2)
    first, last = run_ranks(2, pipefusion_picture, job, warmup_steps)
    assert first is None
    plain = Reference.open(job.spec()).generate_pixels(job.spec().generation.prompts[0])
    assert numpy.abs(last - plain).max() <= tolerance
