"""Files that are either whole or absent, whatever happens to the process or the machine while they are written."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from thinwire.runtime.errors import BadInputError

_REASONS = {
    errno.ENOSPC: "no space is left on the device; free some or use another --output",
    errno.EDQUOT: "the disk quota is used up; free some space or use another --output",
    errno.EFBIG: "the file would be larger than this process may write; raise `ulimit -f` or use another --output",
    errno.EROFS: "the file system is read-only; use another --output",
    errno.EACCES: "permission is denied; make the folder writable or use another --output",
    errno.EPERM: "permission is denied; make the folder writable or use another --output",
    errno.ENOTDIR: "a part of its path is a file, expected a folder; remove it or use another --output",
    errno.EEXIST: "a part of its path is a file, expected a folder; remove it or use another --output",
}


class OutputError(BadInputError):
    """The output folder cannot take what the job makes."""


def output_error(path: Path, error: OSError) -> OutputError:
    """Return the sentence for a failed write to `path`."""
    reason = _REASONS.get(error.errno or 0, f"{error.strerror or error}; use another --output")
    return OutputError(f"cannot write {path}: {reason}")


def partial_of(path: Path) -> Path:
    """Return where the unfinished content of `path` lives: beside it, hidden."""
    return path.with_name(f".{path.name}.partial")


def write_all(descriptor: int, content: bytes) -> None:
    """Write every byte of `content`, however many calls it takes."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` last across a power failure."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put_in_place(partial: Path, path: Path) -> None:
    """Sync a file that somebody else has written beside `path`, then rename it there.

    Raises:
        OutputError: there is none, or it could not be synced or renamed; what was at `path` before is still there.
    """
    with _renamed_when_synced(partial, path, os.O_RDONLY):
        pass


def write_atomically(path: Path, content: bytes) -> None:
    """Put `content` at `path`: written beside it, synced, then renamed, so that nobody ever sees a part of it.

    Raises:
        OutputError: the content could not be written; what was at `path` before is still there.
    """
    with _renamed_when_synced(partial_of(path), path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as descriptor:
        write_all(descriptor, content)


@contextlib.contextmanager
def _renamed_when_synced(partial: Path, path: Path, flags: int) -> Iterator[int]:
    """Open `partial` for the body, then sync it and rename it to `path`; raises OutputError, and removes `partial`."""
    try:
        descriptor = os.open(partial, flags | os.O_CLOEXEC, 0o644)
        try:
            yield descriptor
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        partial.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise output_error(path, error) from error
