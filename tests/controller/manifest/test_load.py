"""Files that are not one plain YAML document, and the little ways in which YAML differs from what people mean."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.controller.manifest.manifests import MINIMAL
from thinwire.controller.manifest.load import MAX_FILE_BYTES, load, load_document, parse
from thinwire.controller.manifest.refusal import ManifestError

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 10)}]\n" for before, name in zip("abcdef", "bcdefg", strict=True)
)

REFUSED = {
    "a: [1, 2": (
        "line 1, column 9: expected YAML, got expected ',' or ']', but got '<stream end>'; mend the file there"
    ),
    "a: b: c": "line 1, column 5: expected YAML, got mapping values are not allowed here; mend the file there",
    "a: *x": "line 1, column 4: expected YAML, got found undefined alias 'x'; mend the file there",
    "a:\n\t- b": (
        "line 2, column 1: expected YAML, got found character '\\t' that cannot start any token; mend the file there"
    ),
    "a: 1\n---\nb: 2\n": "file: expected one DiffusionJob, got 2 documents; put each into a file of its own",
    "": "file: expected one DiffusionJob, got an empty file; examples/emoji.yaml shows one",
    "---\n---\n# nothing\n": "file: expected one DiffusionJob, got an empty file; examples/emoji.yaml shows one",
    "- a": "file: expected a DiffusionJob, got a list; examples/emoji.yaml shows one",
    "rocket": "file: expected a DiffusionJob, got a single value; examples/emoji.yaml shows one",
    "x: &x {c: 1}\nb: {<<: *x, c: 1, c: 2}": (
        "b.c: expected every field once, got it again on line 2; remove one of the two"
    ),
    "? [a]\n: 1": "line 1: expected a field's name, got a list; write a single word before the colon",
    "a: !!python/name:os.system x": (
        "line 1: expected plain YAML, got the tag !!python/name:os.system; remove the tag"
    ),
    "a: !secret x": "line 1: expected plain YAML, got the tag !secret; remove the tag",
    "a: \x07": "line 1: expected YAML text, got the character #x0007; remove it",
    "a: &a [*a]": (
        "line 1: expected at most 200000 values in 64 levels, got more; remove the aliases that multiply it"
    ),
    BOMB: "line 1: expected at most 200000 values in 64 levels, got more; remove the aliases that multiply it",
    "a: " + "[" * 2000: "file: expected at most 64 levels, got more; flatten it",
}


@pytest.mark.parametrize(("text", "sentence"), REFUSED.items(), ids=[text[:20] for text in REFUSED])
def test_what_is_no_manifest_is_refused_in_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse(text)
    assert [str(refusal) for refusal in caught.value.refusals] == [sentence]


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    big, foreign = tmp_path / "big.yaml", tmp_path / "latin.yaml"
    big.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    foreign.write_bytes("a: 1\nb: caf\u00e9".encode("latin-1"))
    sentences = {
        tmp_path / "none.yaml": (
            "file: expected a manifest that can be read, got no such file or directory; check its path and its rights"
        ),
        tmp_path: "file: expected a manifest that can be read, got is a directory; check its path and its rights",
        big: (
            f"file: expected at most {MAX_FILE_BYTES} bytes, got more; a cluster takes no larger objects: split the job"
        ),
        foreign: "line 2: expected UTF-8 text, got the byte 0xe9; save it as UTF-8",
    }
    for path, sentence in sentences.items():
        with pytest.raises(ManifestError) as caught:
            load(path)
        assert str(caught.value) == sentence


def test_values_are_what_a_cluster_would_be_sent() -> None:
    text = (
        "int: 4\nwhole: 4.0\nfraction: 2.5\noctal: 010\nhex: 0x10\nbits: 0b11\ngrouped: 1_000\nnegative: -3\n"
        "yes: 1\noff: off\nTrue: true\nnone: ~\ndate: 2026-01-02\nbase60: 1:30\nbase60f: 1:30.5\n"
        "quoted: '4'\ntext: 4a\nbig: 1.5e+3\nendless: .inf\nforced: !!int a\nforcedf: !!float a\n"
    )
    assert parse(text).raw == {
        "int": 4,
        "whole": 4,
        "fraction": 2.5,
        "octal": 8,
        "hex": 16,
        "bits": 3,
        "grouped": 1000,
        "negative": -3,
        "yes": 1,
        "off": False,
        "True": True,
        "none": None,
        "date": "2026-01-02",
        "base60": "1:30",
        "base60f": "1:30.5",
        "quoted": "4",
        "text": "4a",
        "big": 1500,
        "endless": float("inf"),
        "forced": "a",
        "forcedf": "a",
    }


def test_anchors_and_merges_are_resolved() -> None:
    text = "base: &base {a: 1, b: 2}\nmerged: &m {<<: *base, b: 3}\nsame: *m\n"
    assert parse(text).raw == {"base": {"a": 1, "b": 2}, "merged": {"a": 1, "b": 3}, "same": {"a": 1, "b": 3}}


def test_a_refusal_finds_its_line(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("spec:\n  gpus: 4\n  prompts:\n  - name: a\n  - name: b\n    seed: 1\n")
    document = load_document(path)
    found = {
        field: document.line_of(field)
        for field in ("spec.gpus", "spec.prompts[1].name", "spec.prompts[1].text", "spec.prompts[7]", "metadata.name")
    }
    assert found == {
        "spec.gpus": 2,
        "spec.prompts[1].name": 5,
        "spec.prompts[1].text": 5,
        "spec.prompts[7]": 3,
        "metadata.name": None,
    }


def test_a_byte_order_mark_is_no_part_of_the_manifest(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(MINIMAL), encoding="utf-8-sig")
    assert load(path) == MINIMAL


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_and_never_an_accident(text: str) -> None:
    sentences: list[str] = []
    try:
        parse(text)
    except ManifestError as error:
        sentences = [str(refusal) for refusal in error.refusals]
    assert all(len(sentence.splitlines()) == 1 for sentence in sentences)
