"""What a result file says of itself: commit, command, machine, versions."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path


def about() -> dict[str, str]:
    """Of a benchmark of the runtime."""
    from thinwire.compression import choose_kernel  # brings torch, which a benchmark of the controller does without

    return {
        **origin("thinwire", "torch", "xfuser", "diffusers"),
        "machine": f"{os.cpu_count()} cores, {_processor()}",
        "load": f"{os.getloadavg()[0]:.1f}",
        "kernel": choose_kernel().name,
    }


def origin(*packages: str) -> dict[str, str]:
    """Commit, command and the versions of these packages."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    return {
        "commit": commit,
        "command": " ".join(["python", "-m", "bench", *sys.argv[1:]]),
        **{package: version(package) for package in packages},
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"
