import contextlib
import os
import resource
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.runtime.facts_of_a_run import VERSIONS, picture, run_spec
from thinwire.runtime.files import OutputError, write_atomically
from thinwire.runtime.output import (
    OutputFolder,
    PictureIdentity,
    PictureMetadata,
    RateSpan,
    identity_of,
    read_metadata,
)

IDENTITY = PictureIdentity("snowman ☃ <b>", "", 7, 28, 4.5, 64, 64, "sha256:abc")


def metadata(name: str = "snow", identity: PictureIdentity = IDENTITY) -> PictureMetadata:
    history = (RateSpan(0, {"intra-node": 16000}), RateSpan(4, {"intra-node": 2000}))
    return PictureMetadata(name, "emoji", identity, history, VERSIONS, link_is_emulated=True)


@pytest.fixture
def folder(tmp_path: Path) -> OutputFolder:
    folder = OutputFolder(tmp_path / "out")
    folder.prepare()
    return folder


def test_a_picture_tells_what_it_was_made_from(folder: OutputFolder) -> None:
    path = folder.write(picture(3), metadata())
    assert path == folder.root / "images" / "snow.png"
    assert read_metadata(path) == metadata()
    with Image.open(path) as image:
        assert image.convert("RGB").tobytes() == picture(3).tobytes()
        assert image.text["Description"] == "snowman ☃ <b>"
        assert image.text["Software"] == "thinwire 0.1.0"


def test_pictures_that_are_there_are_not_pending(folder: OutputFolder) -> None:
    folder.write(picture(3), metadata("snow"))
    assert folder.pending([("frog", IDENTITY), ("snow", IDENTITY), ("cat", IDENTITY)]) == ["frog", "cat"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", "frog"),
        ("negative_prompt", "blurry"),
        ("seed", 8),
        ("steps", 27),
        ("guidance_scale", 5.0),
        ("height", 128),
        ("width", 128),
        ("model", "sha256:def"),
    ],
)
def test_a_picture_made_from_something_else_is_refused(folder: OutputFolder, field: str, value: object) -> None:
    folder.write(picture(3), metadata("snow"))
    expected = rf"snow\.png was made from another {field.replace('_', ' ')}: expected .* got .*; use another --output"
    with pytest.raises(OutputError, match=expected):
        folder.pending([("snow", replace(IDENTITY, **{field: value}))])


def test_a_torn_or_foreign_picture_is_refused_and_left_alone(folder: OutputFolder) -> None:
    whole = folder.write(picture(3), metadata()).read_bytes()
    for content in (b"", b"GIF89a", whole[: len(whole) // 2], whole[:-1]):
        folder.picture("snow").write_bytes(content)
        with pytest.raises(OutputError, match=r"snow\.png is no picture of thinwire's .*; use another --output"):
            folder.pending([("snow", IDENTITY)])
        assert folder.picture("snow").read_bytes() == content
    picture(3).save(folder.picture("snow"))
    with pytest.raises(OutputError, match="found none"):
        folder.pending([("snow", IDENTITY)])


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc/x", "a\\b", "a\0b", ".hidden", "x" * 201])
def test_names_that_would_leave_the_folder_are_refused(folder: OutputFolder, name: str) -> None:
    with pytest.raises(OutputError, match="cannot name a picture, expected 1 to 200 bytes"):
        folder.write(picture(1), metadata(name))
    assert [path.name for path in folder.root.rglob("*")] == ["images"]


def test_half_written_files_of_an_earlier_run_are_removed(folder: OutputFolder) -> None:
    left_over = folder.images / ".snow.png.partial"
    left_over.write_bytes(b"half")
    folder.prepare()
    assert not left_over.exists()


def test_an_output_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match=r"cannot write .*a part of its path is a file, expected a folder"):
        OutputFolder(tmp_path / "out").prepare()


@contextlib.contextmanager
def nobody():
    """Root may write everywhere, so root steps aside for a moment."""
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if was_root:
            os.seteuid(0)


def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with nobody(), pytest.raises(OutputError, match="permission is denied"):
        OutputFolder(tmp_path / "out").prepare()


@contextlib.contextmanager
def limit_of_file_size(limit_bytes: int):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)


def test_a_picture_that_finds_no_space_leaves_nothing_and_says_so(folder: OutputFolder) -> None:
    with limit_of_file_size(600), pytest.raises(OutputError, match=r"cannot write .*snow\.png: .*another --output"):
        folder.write(picture(3), metadata())
    assert list(folder.images.iterdir()) == []


def test_a_failed_write_keeps_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_atomically(path, b"old")
    with limit_of_file_size(600), pytest.raises(OutputError):
        write_atomically(path, b"n" * 5000)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], check=True)
    try:
        folder = OutputFolder(tmp_path / "out")
        folder.prepare()
        with contextlib.suppress(OSError):
            (tmp_path / "ballast").write_bytes(b"\0" * 65536)
        with pytest.raises(OutputError, match="no space is left on the device; free some or use another --output"):
            folder.prepare()
        with pytest.raises(OutputError, match=r"snow\.png: no space is left"):
            folder.write(picture(1, size=128), metadata())
        (tmp_path / "ballast").unlink()
        folder.prepare()
        folder.write(picture(1), metadata())
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path)], check=True)
        with pytest.raises(OutputError, match="the file system is read-only"):
            folder.prepare()
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


WRITER = """
    import sys
    from pathlib import Path
    from thinwire.runtime.files import write_atomically
    folder, size = Path(sys.argv[1]), int(sys.argv[2])
    print("ready", flush=True)
    number = 0
    while True:
        write_atomically(folder / f"{number % 4}.png", bytes([number % 251]) * size)
        number += 1
        if number == 3:
            print("writing", flush=True)
"""


def test_killed_writers_leave_whole_files_or_none(tmp_path: Path) -> None:
    size = 300_000
    for attempt in range(12):
        command = [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path), str(size)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            for _ in range(1 + attempt % 2):
                writer.stdout.readline()
            spin = 0
            while spin < attempt * 4000:
                spin += 1
            writer.kill()
        for path in tmp_path.glob("*.png"):
            content = path.read_bytes()
            assert len(content) == size
            assert len(set(content)) == 1


def test_a_picture_is_the_same_job_only_for_the_same_manifest(tmp_path: Path) -> None:
    spec = run_spec(tmp_path, tmp_path)
    first, second = spec.generation.prompts[:2]
    assert identity_of(first, spec, "m") == identity_of(first, spec, "m")
    assert identity_of(first, spec, "m") != identity_of(second, spec, "m")
    assert identity_of(first, spec, "m").guidance_scale == 4.5
