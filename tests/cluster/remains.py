"""What a cluster that was killed may leave behind."""

from __future__ import annotations

from pathlib import Path

import psutil


def living(folder: Path) -> list[psutil.Process]:
    """The processes that were started with a path inside `folder`."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "status"])
        if process.info["status"] != psutil.STATUS_ZOMBIE
        and any(str(folder) in word for word in process.info["cmdline"] or ())
    ]
