"""Compile the native kernel once per machine: source, compiler and processor name the file in the user's cache.

Ranks that start together wait for one build (a lock on a file); the library appears under its name by a rename, so
nobody ever loads half of it.
"""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-fPIC", "-shared", "-std=gnu11", "-Wno-psabi")
BUILD_LIMIT_SECONDS = 300


class BuildError(Exception):
    """The native kernel cannot be had on this machine; the message says why."""


def cache_directory() -> Path:
    """Return where built kernels are kept: $XDG_CACHE_HOME/thinwire, or ~/.cache/thinwire."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "thinwire"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(
        sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    )


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_LIMIT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} could not run: {error}") from error
    if done.returncode:
        raise BuildError(f"{' '.join(command)} failed: {done.stderr.strip()[-2000:]}")
    return done.stdout


def _source() -> dict[str, bytes]:
    folder = files("thinwire.compression.kernels").joinpath("native_c")
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir(), key=str) if file.name.endswith(".c")}


def built_library(check: Callable[[Path], None]) -> Path:
    """Return the compiled library of native_c/kernel.c, building it if it is not cached.

    check: is given a fresh build before anybody else sees it, and raises BuildError to reject it. Raises BuildError
    where there is no compiler, no place to write, or no success.
    """
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise BuildError("no C compiler found (looked for $CC, cc, gcc and clang)")
    source = _source()
    machine = (_run([compiler, "--version"]), _processor(), " ".join(FLAGS))
    parts = (*source.values(), *(part.encode() for part in machine))
    name = hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:32]
    directory = cache_directory()
    library = directory / f"kernel-{name}.so"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not library.exists():
            with (directory / f"{name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not library.exists():
                    _build(compiler, source, library, check)
    except OSError as error:
        raise BuildError(f"{directory} cannot be used as a cache: {error}") from error
    return library


def _build(compiler: str, source: dict[str, bytes], library: Path, check: Callable[[Path], None]) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent, prefix=".build-") as room:
        for name, text in source.items():
            (Path(room) / name).write_bytes(text)
        made = Path(room) / "kernel.so"
        _run([compiler, *FLAGS, str(Path(room) / "kernel.c"), "-o", str(made), "-lm"])
        check(made)
        made.replace(library)
