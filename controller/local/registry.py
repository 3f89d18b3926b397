"""Which local jobs run now: one small file per controller, in a folder of the user's own, for `thinwire status`."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from thinwire.controller.local import files
from thinwire.controller.local.processes import Process

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """A running controller: its process, host:port, and the job it looks after."""

    process: str
    address: str
    namespace: str
    name: str
    output: str


def folder() -> Path:
    """The user's own folder for entries, made if need be; raises PermissionError if it is somebody else's."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    base = Path(runtime) / "thinwire" if runtime else Path(tempfile.gettempdir()) / f"thinwire-{os.getuid()}"
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = base.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(f"{base} belongs to somebody else; remove it or set XDG_RUNTIME_DIR")
    return base


@contextlib.contextmanager
def registered(entry: Entry) -> Iterator[None]:
    """Keep an entry while the body runs. Without a folder for it the job runs on, and `--address` still finds it."""
    try:
        path = folder() / f"{os.getpid()}.json"
        files.write(path, entry)
    except OSError as error:
        _log.warning("not_registered", reason=str(error))
        yield
        return
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def running() -> list[Entry]:
    """Entries whose controller lives, by job; those of dead ones are removed."""
    found = []
    for path in folder().glob("*.json"):
        entry = files.read(path, Entry)
        if entry is None:
            continue
        if _alive(entry):
            found.append(entry)
        else:
            path.unlink(missing_ok=True)
    return sorted(found, key=lambda entry: (entry.namespace, entry.name, entry.address))


def _alive(entry: Entry) -> bool:
    try:
        return Process.parse(entry.process).alive
    except ValueError:
        return False
