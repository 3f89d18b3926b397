"""Builds programs from pinned Go modules, with progress and with errors that say what to do."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

OLDEST_GO = (1, 24)


class ToolMissingError(Exception):
    """A program can neither be found nor made; the message says what to install."""


@dataclass(frozen=True)
class Module:
    """A Go module of ours whose go.mod and go.sum pin programs, and what the linker writes into them."""

    folder: Path
    packages: dict[str, str]
    variables: dict[str, str] = field(default_factory=dict)

    def build(self, program: str, target: Path) -> None:
        """Make `target` of the package that `program` names; raises ToolMissingError."""
        compiler = go(program)
        flags = " ".join(["-s", "-w", *(f"-X {name}={value}" for name, value in self.variables.items())])
        unfinished = target.with_suffix(".unfinished")
        command = [compiler, "build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", str(unfinished)]
        # Packages are printed as they are compiled (about 1,500 of them): every hundredth is a sign of life.
        with subprocess.Popen(
            [*command, "-v", self.packages[program]], cwd=self.folder, stderr=subprocess.PIPE, text=True
        ) as build:
            assert build.stderr is not None
            said = _shown(build.stderr)
        if build.returncode:
            remedy = "the lines above say why; the modules come through GOPROXY"
            raise ToolMissingError(f"expected {program} to build, got exit {build.returncode}; {remedy}\n{said}")
        unfinished.rename(target)


def go(program: str) -> str:
    """The Go toolchain that can build `program`; raises ToolMissingError."""
    found = shutil.which("go")
    wanted = f"Go {'.'.join(map(str, OLDEST_GO))} or newer"
    remedy = "install it from https://go.dev/dl and put its bin folder on PATH"
    if found is None:
        raise ToolMissingError(f"expected {wanted} to build {program}, got no `go` on PATH; {remedy}")
    text = subprocess.run([found, "env", "GOVERSION"], cwd="/", capture_output=True, text=True, check=True).stdout
    numbers = re.match(r"go(\d+)\.(\d+)", text.strip())
    if numbers is not None and tuple(map(int, numbers.groups())) < OLDEST_GO:
        raise ToolMissingError(f"expected {wanted} to build {program}, got {text.strip()}; {remedy}")
    return found


def _shown(lines: Iterator[str]) -> str:
    """Show progress; return the last lines for an error."""
    last: list[str] = []
    for count, line in enumerate(lines, 1):
        last = [*last, line][-20:]
        if count % 100 == 0:
            print(f"  {count} packages, now {line.strip()}", flush=True)
    return "".join(last)
