"""Replicas work on different prompts: the pictures are those of one replica, each once, in the order of the prompts."""

from pathlib import Path

import numpy
import pytest

from tests.harness.sessions import FIXED, OFF, SD3, Job, assert_bases_agree, pictures_of, run_job
from tests.runtime.exchange.test_exactness import TOLERANCE
from thinwire.runtime.reference import Reference

pytestmark = pytest.mark.distributed
PROMPTS = ("a red heart", "a blue rocket", "a pizza")


@pytest.mark.parametrize(
    ("data", "ulysses", "ring", "cfg"), [(2, 1, 1, 1), (2, 2, 1, 1), (2, 1, 2, 1), (2, 1, 1, 2), (4, 1, 1, 1)]
)
@pytest.mark.parametrize(("mode", "warmup_steps"), [(OFF, 1), (FIXED, 99)], ids=["off", "raw"])
def test_replicas_make_the_same_pictures_as_one(
    tiny_sd3: Path, data: int, ulysses: int, ring: int, cfg: int, mode: int, warmup_steps: int
) -> None:
    job = Job(
        tiny_sd3, SD3, ulysses, ring, cfg, data=data, mode=mode, millibits=8000, warmup_steps=warmup_steps,
        steps=2, prompts=PROMPTS,
    )  # fmt: skip
    pictures = pictures_of(run_job(job))
    reference = Reference.open(job.spec())
    assert len(pictures) == len(PROMPTS)
    for picture, prompt in zip(pictures, job.spec().generation.prompts, strict=True):
        assert numpy.abs(picture - reference.generate_pixels(prompt)).max() <= TOLERANCE


def test_a_replica_without_a_prompt_stands_by(tiny_sd3: Path) -> None:
    seen = run_job(Job(tiny_sd3, SD3, ring=2, data=2, millibits=2000, steps=3, prompts=PROMPTS))
    assert_bases_agree(seen)
    facts = seen[0].steps
    assert [step.job_step for step in facts] == [0, 1, 2, 6, 7, 8]
    assert [step.prompt for step in facts] == ["p0"] * 3 + ["p2"] * 3
    both, alone = facts[1].windows[0], facts[-1].windows[0]
    assert both.count == 2 * alone.count
    assert facts[-1].base_mismatches == 0
