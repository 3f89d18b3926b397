"""What the Dockerfiles say for themselves agrees with what the project pins."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = ("controller/Dockerfile", "runtime/Dockerfile")


def argument(dockerfile: str, name: str) -> str:
    found = re.search(rf"^ARG {name}=(\S+)$", (ROOT / dockerfile).read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None, f"{dockerfile} has no ARG {name}"
    return found.group(1)


def pinned(package: str) -> str:
    found = re.search(rf"^{package}==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return found.group(1)


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_an_image_is_built_by_the_pinned_uv_on_a_pinned_base_as_nobody(dockerfile: str) -> None:
    assert argument(dockerfile, "UV_VERSION") == pinned("uv")
    assert re.search(r":\d+\.\d+\.\d+-", argument(dockerfile, "BASE_IMAGE"))
    assert "\nUSER 65532:65532\n" in (ROOT / dockerfile).read_text(encoding="utf-8")


def test_the_ranks_image_brings_the_pinned_torch() -> None:
    assert argument("runtime/Dockerfile", "TORCH_VERSION") == pinned("torch")


def test_the_build_context_holds_what_is_copied_and_no_tests() -> None:
    wanted = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in wanted
    assert {"!src", "!controller", "!runtime", "!compression", "!proto"} <= set(wanted)
    assert not [line for line in wanted if line.startswith("!") and "tests" in line]
