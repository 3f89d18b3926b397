"""Telling one model folder from another without reading all of a large one."""

import hashlib
from pathlib import Path

from thinwire.compression.calibration import CALIBRATION_FILE

WHOLE_FILE_BYTES = 64 << 20
BLOCK_BYTES = 64 << 10
BLOCKS = 256


def model_fingerprint(folder: Path) -> str:
    """Return `sha256:` and 32 hexadecimal digits over the names, sizes and contents of a model folder's files.

    Files up to 64 MiB are read whole; of larger ones 256 evenly spaced blocks of 64 KiB, the first and the last
    among them. Hidden files, Markdown and the model's calibration do not count: they do not change the model.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if (
            not path.is_file()
            or path.suffix == ".md"
            or path.name == CALIBRATION_FILE
            or any(part.startswith(".") for part in relative.parts)
        ):
            continue
        size_bytes = path.stat().st_size
        digest.update(f"{relative.as_posix()}\0{size_bytes}\0".encode())
        with path.open("rb") as file:
            for offset, length in _blocks(size_bytes):
                file.seek(offset)
                digest.update(file.read(length))
    return f"sha256:{digest.hexdigest()[:32]}"


def _blocks(size_bytes: int) -> list[tuple[int, int]]:
    if size_bytes <= WHOLE_FILE_BYTES:
        return [(0, size_bytes)]
    last = size_bytes - BLOCK_BYTES
    return [(last * block // (BLOCKS - 1), BLOCK_BYTES) for block in range(BLOCKS)]
