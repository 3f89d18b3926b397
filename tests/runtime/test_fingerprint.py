from pathlib import Path

import pytest

from thinwire.runtime import fingerprint
from thinwire.runtime.fingerprint import model_fingerprint


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "transformer").mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "transformer/model.safetensors").write_bytes(bytes(range(256)) * 40)
    return tmp_path


def test_a_copy_of_a_model_is_the_same_model(model: Path) -> None:
    before = model_fingerprint(model)
    (model / "README.md").write_text("a card")
    (model / ".cache").mkdir()
    (model / ".cache/lock").write_text("")
    assert model_fingerprint(model) == before
    assert before.startswith("sha256:")


def test_any_other_name_size_or_byte_is_another_model(model: Path) -> None:
    seen = {model_fingerprint(model)}
    weights = model / "transformer/model.safetensors"
    content = weights.read_bytes()
    for changed in (content[:-1], content[:-1] + b"\0", b"\1" + content[1:]):
        weights.write_bytes(changed)
        seen.add(model_fingerprint(model))
    weights.rename(weights.with_name("weights.safetensors"))
    seen.add(model_fingerprint(model))
    assert len(seen) == 5


def test_of_a_large_file_the_ends_and_many_blocks_count(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "WHOLE_FILE_BYTES", 1000)
    monkeypatch.setattr(fingerprint, "BLOCK_BYTES", 10)
    monkeypatch.setattr(fingerprint, "BLOCKS", 5)
    weights = model / "transformer/model.safetensors"
    content = weights.read_bytes()
    before = model_fingerprint(model)
    for position, counts in ((0, True), (len(content) - 1, True), (len(content) // 2, True), (100, False)):
        changed = bytearray(content)
        changed[position] ^= 1
        weights.write_bytes(changed)
        assert (model_fingerprint(model) != before) == counts
