"""One `thinwire run` per output folder at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from thinwire.controller.cli.errors import Refused


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of an output folder; raises Refused, naming the process that holds it, if somebody else does.

    The kernel lets go of it when this process ends, however it ends.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise Refused(f"{path.parent} cannot be written to ({error.strerror}); choose another --output") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise Refused(
                f"{path.parent.parent} is in use by `thinwire run` with process number {holder}; "
                "wait for it, or choose another --output"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
