"""`python -m thinwire.runtime.compare A B`: how alike two outputs are, as JSON on standard output.

A and B are output folders; pictures of the same name are compared as 8-bit RGB. PSNR is 10 log10(255² / MSE), in dB;
SSIM is that of Wang et al. 2004 over windows of 7 x 7, averaged over channels. Both as scikit-image computes them.
"""

import argparse
import dataclasses
import json
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from thinwire.runtime.errors import BadInputError
from thinwire.runtime.process import ExitCode

_WINDOW = 7


@dataclass(frozen=True, slots=True)
class PictureComparison:
    """One picture of A beside that of B."""

    name: str
    psnr_db: float | None
    """None: the pictures are identical."""
    ssim: float
    max_difference: int
    """Largest difference of any channel of any pixel, of 255."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """All pictures that both folders hold, and the names that only one of them holds."""

    pictures: tuple[PictureComparison, ...]
    only_in_a: tuple[str, ...]
    only_in_b: tuple[str, ...]
    identical: int
    median_psnr_db: float | None
    """None: at least half of the pictures are identical."""
    min_psnr_db: float | None
    """None: all pictures are identical."""
    median_ssim: float
    min_ssim: float


def compare_folders(a: Path, b: Path) -> Comparison:
    """Compare the pictures of two output folders.

    Raises:
        BadInputError: they have no picture in common, or two of one name differ in size.
    """
    in_a, in_b = _pictures(a), _pictures(b)
    names = sorted(in_a.keys() & in_b.keys())
    if not names:
        raise BadInputError(
            f"{a} and {b} have no picture in common, expected images/NAME.png of the same names; name two outputs"
        )
    pictures = tuple(_compare(name, in_a[name], in_b[name]) for name in names)
    decibels = [math.inf if picture.psnr_db is None else picture.psnr_db for picture in pictures]
    return Comparison(
        pictures=pictures,
        only_in_a=tuple(sorted(in_a.keys() - in_b.keys())),
        only_in_b=tuple(sorted(in_b.keys() - in_a.keys())),
        identical=sum(picture.psnr_db is None for picture in pictures),
        median_psnr_db=_finite(statistics.median(decibels)),
        min_psnr_db=_finite(min(decibels)),
        median_ssim=statistics.median(picture.ssim for picture in pictures),
        min_ssim=min(picture.ssim for picture in pictures),
    )


def _pictures(output: Path) -> dict[str, Path]:
    return {path.stem: path for path in (output / "images").glob("*.png") if not path.name.startswith(".")}


def _compare(name: str, a: Path, b: Path) -> PictureComparison:
    one, other = _pixels(a), _pixels(b)
    if one.shape != other.shape:
        raise BadInputError(
            f"{a} is {one.shape[1]} x {one.shape[0]} and {b} {other.shape[1]} x {other.shape[0]} pixels,"
            " expected the same size; compare outputs of one manifest"
        )
    if min(one.shape[:2]) < _WINDOW:
        raise BadInputError(
            f"{a} is smaller than {_WINDOW} x {_WINDOW} pixels, which SSIM needs; compare larger pictures"
        )
    difference = int(np.abs(one.astype(np.int16) - other.astype(np.int16)).max())
    return PictureComparison(
        name=name,
        psnr_db=float(peak_signal_noise_ratio(one, other, data_range=255)) if difference else None,
        ssim=float(structural_similarity(one, other, win_size=_WINDOW, data_range=255, channel_axis=2)),
        max_difference=difference,
    )


def _pixels(path: Path) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise BadInputError(f"{path} cannot be read as a picture ({error}); make it again") from error


def _finite(value: float) -> float | None:
    return None if math.isinf(value) else value


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the comparison of the two folders named on the command line, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m thinwire.runtime.compare", description="compare two outputs")
    parser.add_argument("a", type=Path)
    parser.add_argument("b", type=Path)
    asked = parser.parse_args(arguments)
    try:
        comparison = compare_folders(asked.a, asked.b)
    except BadInputError as error:
        sys.stderr.write(f"thinwire: {error}\n")
        return ExitCode.BAD_INPUT
    sys.stdout.write(json.dumps(dataclasses.asdict(comparison), indent=2) + "\n")
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
