import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.runtime.facts_of_a_run import picture
from thinwire.runtime.compare import compare_folders, main
from thinwire.runtime.errors import BadInputError


def save(output: Path, name: str, image: Image.Image) -> None:
    (output / "images").mkdir(parents=True, exist_ok=True)
    image.save(output / "images" / f"{name}.png")


def brighter(image: Image.Image, by: int) -> Image.Image:
    pixels = np.asarray(image).astype(int)
    return Image.fromarray(np.where(pixels >= 128, pixels - by, pixels + by).astype(np.uint8))


def test_a_known_difference_has_the_psnr_of_the_formula(tmp_path: Path) -> None:
    save(tmp_path / "a", "cat", picture(1))
    save(tmp_path / "b", "cat", brighter(picture(1), 4))
    comparison = compare_folders(tmp_path / "a", tmp_path / "b")
    assert comparison.pictures[0].psnr_db == pytest.approx(10 * math.log10(255**2 / 16))
    assert comparison.pictures[0].max_difference == 4
    assert 0.5 < comparison.min_ssim < 1
    assert comparison.median_psnr_db == comparison.min_psnr_db == comparison.pictures[0].psnr_db


def test_identical_pictures_have_no_psnr_and_the_ssim_one(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        save(tmp_path / "a", name, picture(1))
        save(tmp_path / "b", name, picture(1))
    comparison = compare_folders(tmp_path / "a", tmp_path / "b")
    assert comparison.identical == 2
    assert comparison.median_psnr_db is None
    assert comparison.min_psnr_db is None
    assert comparison.min_ssim == 1.0


def test_the_median_is_a_number_as_long_as_most_pictures_differ(tmp_path: Path) -> None:
    for name, by in (("a", 0), ("b", 4), ("c", 8)):
        save(tmp_path / "a", name, picture(1))
        save(tmp_path / "b", name, brighter(picture(1), by))
    comparison = compare_folders(tmp_path / "a", tmp_path / "b")
    assert comparison.median_psnr_db == pytest.approx(10 * math.log10(255**2 / 16))
    assert comparison.min_psnr_db == pytest.approx(10 * math.log10(255**2 / 64))


def test_pictures_of_one_side_only_are_named(tmp_path: Path) -> None:
    save(tmp_path / "a", "cat", picture(1))
    save(tmp_path / "a", "dog", picture(2))
    save(tmp_path / "b", "cat", picture(1))
    save(tmp_path / "b", "emu", picture(3))
    comparison = compare_folders(tmp_path / "a", tmp_path / "b")
    assert (comparison.only_in_a, comparison.only_in_b) == (("dog",), ("emu",))
    assert [entry.name for entry in comparison.pictures] == ["cat"]


def test_what_cannot_be_compared_is_one_sentence(tmp_path: Path) -> None:
    save(tmp_path / "a", "cat", picture(1))
    with pytest.raises(BadInputError, match="no picture in common"):
        compare_folders(tmp_path / "a", tmp_path / "b")
    save(tmp_path / "b", "cat", picture(1, size=32))
    with pytest.raises(BadInputError, match=r"64 x 64 .* 32 x 32 pixels, expected the same size"):
        compare_folders(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b/images/cat.png").write_bytes(b"no picture")
    with pytest.raises(BadInputError, match="cannot be read as a picture"):
        compare_folders(tmp_path / "a", tmp_path / "b")


def test_the_command_prints_json_and_ends_with_2_on_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "a", "cat", picture(1))
    save(tmp_path / "b", "cat", brighter(picture(1), 4))
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert json.loads(capsys.readouterr().out)["pictures"][0]["name"] == "cat"
    assert main([str(tmp_path / "a"), str(tmp_path / "c")]) == 2
    refused = capsys.readouterr().err
    assert refused.startswith("thinwire: ")
    assert refused.count("\n") == 1
