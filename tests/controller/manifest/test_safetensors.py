"""Damaged weights are found from their header alone."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.controller.manifest.manifests import safetensors_bytes
from thinwire.controller.manifest.preflight.safetensors import Damage, tensors_in

WHOLE = safetensors_bytes({"a": (2, 3), "b": (4,)})


def headed(header: object, data_bytes: int = 0) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data_bytes)


def entry(dtype: str, shape: list[int], first: int, last: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


DAMAGED = {
    "cut in its length": (WHOLE[:5], "expected a whole FILE, got 5 bytes"),
    "cut in its header": (WHOLE[:20], "expected a header of 128 bytes in FILE, got a file of 20 bytes"),
    "cut in its data": (WHOLE[:-1], "expected 40 bytes of tensors in FILE, got 39"),
    "longer than it says": (WHOLE + b"x", "expected 40 bytes of tensors in FILE, got 41"),
    "another format": (
        b"PK\x03\x04" + bytes(60),
        "expected the header of a safetensors file in FILE, got something else",
    ),
    "a header that is no map": (headed([]), "expected the header of a safetensors file in FILE, got something else"),
    "an unknown dtype": (
        headed({"a": entry("Q7", [1], 0, 1)}, 1),
        "expected dtype, shape and offsets that agree for the tensor a in FILE, got others",
    ),
    "a shape that its bytes contradict": (
        headed({"a": entry("F32", [2], 0, 4)}, 4),
        "expected dtype, shape and offsets that agree for the tensor a in FILE, got others",
    ),
    "an entry without offsets": (
        headed({"a": {"dtype": "F32", "shape": [1]}}, 4),
        "expected dtype, shape and offsets that agree for the tensor a in FILE, got others",
    ),
    "a gap": (
        headed({"a": entry("U8", [1], 0, 1), "b": entry("U8", [1], 2, 3)}, 3),
        "expected tensors one after the other in FILE, got a gap or an overlap at byte 1",
    ),
    "an overlap": (
        headed({"a": entry("U8", [2], 0, 2), "b": entry("U8", [2], 1, 3)}, 3),
        "expected tensors one after the other in FILE, got a gap or an overlap at byte 1",
    ),
    "a Git LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "expected weights in FILE, got a Git LFS pointer",
    ),
}


@pytest.mark.parametrize(("data", "sentence"), DAMAGED.values(), ids=DAMAGED)
def test_damage_is_named(tmp_path: Path, data: bytes, sentence: str) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(data)
    found = tensors_in(file)
    assert isinstance(found, Damage)
    assert f"expected {found.expected}, got {found.got}".replace(str(file), "FILE") == sentence
    assert found.remedy


def test_a_whole_file_names_its_tensors(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(WHOLE)
    assert tensors_in(file) == {"a", "b"}
    file.write_bytes(headed({"__metadata__": {"format": "pt"}, "h": entry("BF16", [2, 2], 0, 8)}, 8))
    assert tensors_in(file) == {"h"}


def test_a_folder_in_the_file_s_place_is_damage(tmp_path: Path) -> None:
    found = tensors_in(tmp_path)
    assert isinstance(found, Damage)
    assert found.got == "is a directory"


@given(length=st.integers(0, len(WHOLE) - 1), junk=st.binary(max_size=40))
@settings(max_examples=60)
def test_no_file_but_the_whole_one_passes(tmp_path_factory: pytest.TempPathFactory, length: int, junk: bytes) -> None:
    file = tmp_path_factory.mktemp("cut") / "model.safetensors"
    data = WHOLE[:length] + junk
    file.write_bytes(data)
    found = tensors_in(file)
    assert isinstance(found, Damage) or len(data) == len(WHOLE)
