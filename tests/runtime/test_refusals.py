"""What cannot be done is said in one sentence before anything runs."""

from pathlib import Path

import pytest

from tests.harness.models import save_tiny_flux, save_tiny_sd3
from tests.harness.ranks import run_ranks
from tests.harness.sessions import DISTRIFUSION, FLUX, SD3, Job
from thinwire.runtime.errors import BadInputError
from thinwire.runtime.facts import NoHooks
from thinwire.runtime.generate import Session
from thinwire.runtime.parallel import Launch

pytestmark = pytest.mark.distributed


def refusal(launch: Launch, job: Job) -> str:
    try:
        Session.open(job.spec(), NoHooks(), launch).close()
    except BadInputError as error:
        return str(error)
    return ""


def refusals(job: Job, ranks: int | None = None) -> set[str]:
    return set(run_ranks(ranks or job.world_size, refusal, job))


def test_heads_that_ulysses_does_not_divide_are_refused(tmp_path: Path) -> None:
    folder = save_tiny_sd3(tmp_path / "model", heads=3)
    (sentence,) = refusals(Job(folder, SD3, ulysses=2, ring=1))
    assert "3 attention heads" in sentence
    assert "got 2" in sentence


def test_a_flux_text_length_that_the_degrees_do_not_divide_is_refused(tmp_path: Path) -> None:
    folder = save_tiny_flux(tmp_path / "model", text_tokens=15)
    (sentence,) = refusals(Job(folder, FLUX, ulysses=2, ring=1))
    assert "text length" in sentence
    assert "got 15" in sentence


@pytest.mark.parametrize(
    ("pixels", "expected"), [(24, "token rows divisible by"), (60, "multiple of 8 pixels"), (512, "up to 256, got 512")]
)
def test_a_size_that_cannot_be_made_or_shared_is_refused(tiny_sd3: Path, pixels: int, expected: str) -> None:
    (sentence,) = refusals(Job(tiny_sd3, SD3, ring=2, pixels=pixels))
    assert expected in sentence


def test_degrees_whose_product_is_not_the_number_of_ranks_are_refused(tiny_sd3: Path) -> None:
    (sentence,) = refusals(Job(tiny_sd3, SD3, ulysses=2, ring=2), ranks=2)
    assert "2 ranks" in sentence
    assert "got 4" in sentence


def test_more_stages_than_layers_are_refused(tiny_sd3: Path) -> None:
    (sentence,) = refusals(Job(tiny_sd3, SD3, ring=1, pipefusion=3, pixels=48))
    assert "parallelism.pipefusion" in sentence
    assert "2 layers" in sentence


def test_a_picture_that_the_stages_cannot_cut_evenly_is_refused(tiny_sd3: Path) -> None:
    (sentence,) = refusals(Job(tiny_sd3, SD3, ring=2, pipefusion=2, pixels=48))
    assert "divisible by ulysses x ring x pipefusion = 4, got 6 rows" in sentence


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [({"ulysses": 2, "ring": 1}, "with ring 1"), ({"ring": 2, "pipefusion": 2}, "with pipefusion above 1")],
)
def test_distrifusion_without_a_ring_or_with_stages_is_refused(
    tiny_sd3: Path, degrees: dict[str, int], expected: str
) -> None:
    (sentence,) = refusals(Job(tiny_sd3, SD3, patch_mode=DISTRIFUSION, **degrees))
    assert "parallelism.patchMode" in sentence
    assert expected in sentence


def test_guidance_parallelism_without_a_guidance_batch_is_refused(tiny_flux: Path) -> None:
    (sentence,) = refusals(Job(tiny_flux, FLUX, ring=1, cfg=2))
    assert "parallelism.cfg" in sentence


def test_a_model_of_another_class_is_refused(tiny_sd3: Path) -> None:
    (sentence,) = refusals(Job(tiny_sd3, FLUX))
    assert "StableDiffusion3Pipeline" in sentence


def test_an_unsupported_class_is_refused(tiny_sd3: Path) -> None:
    (sentence,) = refusals(Job(tiny_sd3, "StableDiffusionXLPipeline"))
    assert "expected one of" in sentence


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    (sentence,) = refusals(Job(tmp_path / "nothing"))
    assert "model.path" in sentence


def test_a_truncated_component_is_refused(tmp_path: Path) -> None:
    folder = save_tiny_sd3(tmp_path / "model")
    weights = next((folder / "transformer").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    (sentence,) = refusals(Job(folder))
    assert "transformer" in sentence
