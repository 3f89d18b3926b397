"""Can the pictures be written where they are to go?"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from thinwire.controller.manifest.job import Generation
from thinwire.controller.manifest.refusal import Refusal

FIELD = "--output"
_METADATA_BYTES = 64 * 1024
_EVENT_BYTES = 4 * 1024
_SPARE_BYTES = 16 * 1024 * 1024
# The picture, the one to compare it with, both again in report.html (base64) and in the contact sheet.
_COPIES = 6


def needed_bytes(generation: Generation) -> int:
    """Estimate what a run may write, from above: pictures as if PNG saved nothing, and one event a step."""
    picture_bytes = generation.width * generation.height * 3 + _METADATA_BYTES
    step_bytes = generation.steps * _EVENT_BYTES
    return len(generation.prompts) * (picture_bytes * _COPIES + step_bytes) + _SPARE_BYTES


def output_refusals(folder: Path, needed: int) -> list[Refusal]:
    """Refuse a folder that cannot be made, cannot be written or has less than `needed` bytes left."""
    folder = folder.absolute()
    place = next((path for path in (folder, *folder.parents) if path.exists()), Path("/"))
    if not place.is_dir():
        return [Refusal(FIELD, f"a folder at {folder}", f"the file {place}", "choose another folder")]
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"thinwire")
            file.flush()
        free = shutil.disk_usage(place).free
    except OSError as error:
        got = (error.strerror or "an error").lower()
        return [Refusal(FIELD, f"a folder that can be written at {folder}", got, "choose another or change its rights")]
    if free < needed:
        expected = f"{_mebibytes(needed)} free for {folder}"
        return [Refusal(FIELD, expected, _mebibytes(free), "free some or choose another folder")]
    return []


def _mebibytes(count_bytes: int) -> str:
    return f"{count_bytes / 2**20:.0f} MiB"
