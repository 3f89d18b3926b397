"""What a lab asks of the machine: Linux, root, and the programs `ip` and `tc`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys


class NetlabError(RuntimeError):
    """A lab cannot be had, or a command of it failed; the message says what to do."""


def require() -> None:
    """Raise NetlabError where network namespaces cannot be made."""
    if not sys.platform.startswith("linux"):
        raise NetlabError(f"netlab: expected Linux, got {sys.platform}; shaped links need its network namespaces")
    missing = [program for program in ("ip", "tc") if shutil.which(program) is None]
    if missing:
        raise NetlabError(f"netlab: expected the programs ip and tc, missing {', '.join(missing)}; install iproute2")
    if os.geteuid() != 0:
        raise NetlabError(f"netlab: expected root, got user {os.geteuid()}; run it with sudo or in a root container")


def call(*command: str) -> str:
    """Run a command and return what it printed; raises NetlabError with its own words."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = " ".join(done.stderr.split()) or "nothing"
        raise NetlabError(f"netlab: `{' '.join(command)}` ended with {done.returncode} and said: {said}")
    return done.stdout
