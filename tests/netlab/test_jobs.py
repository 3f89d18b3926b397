"""Jobs over a lab's links: torchrun on every node, the in-box model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import thinwire
from tests.controller.waiting import eventually
from tests.netlab.gang import Gang
from tests.netlab.lab import Lab
from thinwire.proto.thinwire.v1alpha1 import run_spec_pb2 as pb
from thinwire.runtime.process import TIMEOUT_VARIABLE, ExitCode

pytestmark = [pytest.mark.netlab, pytest.mark.torchrun, pytest.mark.timeout(1800)]

RUN_SECONDS = 900.0
ENDING_SECONDS = 60.0
"""In which the others must have ended too where one has."""
STEPS = 28
HEARTBEAT_SECONDS = 20


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as entered:
        yield entered


def job(output: Path, prompts: int) -> pb.RunSpec:
    """Two ranks in a ring on the in-box model."""
    names = ("rocket", "pizza", "red heart", "ghost")[:prompts]
    return pb.RunSpec(
        job_name="shaped",
        attempt=1,
        model=pb.Model(
            path=str(Path(thinwire.__file__).parent / "runtime/bundled/emoji"),
            pipeline="StableDiffusion3Pipeline",
            dtype=pb.DTYPE_FLOAT32,
        ),
        parallelism=pb.Parallelism(ulysses=1, ring=2, pipefusion=1, cfg=1, data=1),
        compression=pb.Compression(
            mode=pb.COMPRESSION_MODE_FIXED,
            min_millibits=2000,
            max_millibits=16_000,
            max_relative_error_milli=900,
            warmup_steps=1,
            predictor_order=2,
        ),
        generation=pb.Generation(
            prompts=[pb.Prompt(name=name.replace(" ", "-"), prompt=name, seed=1) for name in names],
            steps=STEPS,
            guidance_scale_milli=2500,
            height=64,
            width=64,
        ),
        output_dir=str(output),
    )


def after_steps(gang: Gang, number: int) -> list[dict]:
    """Wait for so many steps of a job, and return them."""

    def there() -> bool:
        assert gang.running, [gang.wait(ENDING_SECONDS), gang.folder]
        return len(gang.events("step")) >= number

    eventually(there, within_seconds=RUN_SECONDS)
    return gang.events("step")


def test_a_link_that_is_cut_ends_the_gang_within_the_heartbeat_with_rank_and_cause(tmp_path: Path, stack: ExitStack):
    lab = stack.enter_context(Lab(2))
    spec = job(tmp_path / "pictures", 4)
    gang = Gang.start(lab, spec, tmp_path / "gang", environment={TIMEOUT_VARIABLE: str(HEARTBEAT_SECONDS)})
    stack.callback(gang.close)
    after_steps(gang, 2)
    lab.cut(1)
    endings = gang.wait(20 * HEARTBEAT_SECONDS)
    for rank, ending in enumerate(endings):
        print(ending)
        assert ending.exit_code != ExitCode.DONE
        assert ending.rank == rank
        assert f"rank {rank} ended with" in ending.message
        assert "Timed out" in ending.message or "timeout" in ending.message
