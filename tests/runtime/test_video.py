"""Videos: an MP4 that any player reads, a strip that stands for it, and the same resume and metadata as pictures."""

import json
from dataclasses import replace
from pathlib import Path

import imageio_ffmpeg
import numpy
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.harness.families import SAVE
from tests.harness.sessions import OFF, Job
from tests.runtime.facts_of_a_run import VERSIONS
from thinwire.runtime.files import OutputError
from thinwire.runtime.output import OutputFolder, PictureIdentity, PictureMetadata, read_metadata
from thinwire.runtime.picture import Video
from thinwire.runtime.report.__main__ import write_report
from thinwire.runtime.run import run_attempt
from thinwire.runtime.single import SingleSession
from thinwire.runtime.video import STRIP_FRAMES, strip, write_video

IDENTITY = PictureIdentity("a red heart", "", 7, 28, 4.5, 64, 96, "sha256:abc", num_frames=9, frames_per_second=8)


def video(frames: int = 9, height: int = 64, width: int = 96) -> Video:
    """A bright square that wanders over a ramp."""
    ramp = numpy.linspace(0, 160, width, dtype=numpy.uint8)
    pixels = numpy.broadcast_to(ramp[None, None, :, None], (frames, height, width, 3)).copy()
    for number in range(frames):
        pixels[number, 20:40, 4 * number : 4 * number + 20] = (250, 80, 40)
    return Video(pixels, 8)


def read_back(path: Path) -> tuple[dict[str, object], NDArray[numpy.uint8]]:
    reader = imageio_ffmpeg.read_frames(str(path))
    about = next(reader)
    width, height = about["size"]
    frames = [numpy.frombuffer(frame, numpy.uint8).reshape(height, width, 3) for frame in reader]
    return about, numpy.stack(frames)


def metadata(identity: PictureIdentity = IDENTITY) -> PictureMetadata:
    return PictureMetadata("heart", "job", identity, (), VERSIONS)


@pytest.fixture
def folder(tmp_path: Path) -> OutputFolder:
    folder = OutputFolder(tmp_path / "out")
    folder.prepare()
    return folder


def test_every_frame_comes_back_as_it_was(tmp_path: Path) -> None:
    made = video()
    write_video(tmp_path / "a.mp4", made, "what it was made from")
    about, frames = read_back(tmp_path / "a.mp4")
    assert frames.shape == made.frames.shape
    assert about["fps"] == 8
    assert about["codec"] == "h264"
    error = (frames.astype(float) - made.frames) ** 2
    assert 10 * numpy.log10(255**2 / error.mean()) > 30
    assert b"what it was made from" in (tmp_path / "a.mp4").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_an_encoder_that_cannot_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write .*a\.mp4"):
        write_video(tmp_path / "missing" / "a.mp4", video(), "")
    assert list(tmp_path.iterdir()) == []


def test_a_strip_shows_the_first_and_the_last_frame() -> None:
    made = video(frames=49)
    shown = numpy.asarray(strip(made))
    assert shown.shape == (64, STRIP_FRAMES * 96 + (STRIP_FRAMES - 1) * 2, 3)
    assert numpy.array_equal(shown[:, :96], made.frames[0])
    assert numpy.array_equal(shown[:, -96:], made.frames[-1])
    assert strip(video(frames=2)).size == (2 * 96 + 2, 64)


def test_a_video_is_finished_when_both_files_are_there(folder: OutputFolder) -> None:
    path = folder.write(video(), metadata())
    assert path == folder.root / "videos" / "heart.mp4"
    assert read_metadata(folder.picture("heart")) == metadata()
    assert folder.pending([("heart", IDENTITY)]) == []
    path.unlink()
    assert folder.pending([("heart", IDENTITY)]) == ["heart"]


@pytest.mark.parametrize(("field", "value"), [("num_frames", 17), ("frames_per_second", 24)])
def test_a_video_made_otherwise_is_refused(folder: OutputFolder, field: str, value: int) -> None:
    folder.write(video(), metadata())
    with pytest.raises(OutputError, match=f"another {field.replace('_', ' ')}"):
        folder.pending([("heart", replace(IDENTITY, **{field: value}))])


def test_half_written_videos_of_an_earlier_run_are_removed(folder: OutputFolder) -> None:
    folder.videos.mkdir()
    left_over = folder.videos / ".heart.mp4.partial"
    left_over.write_bytes(b"half")
    folder.prepare()
    assert not left_over.exists()


def test_pictures_of_earlier_versions_say_nothing_of_frames() -> None:
    identity = replace(IDENTITY, num_frames=0, frames_per_second=0)
    told = json.loads(metadata(identity).to_json())
    del told["num_frames"], told["frames_per_second"]
    assert PictureMetadata.from_json(json.dumps(told)).identity == identity


def test_a_job_of_a_video_model_makes_what_is_missing_and_shows_it(tmp_path: Path) -> None:
    model = SAVE["CogVideoXPipeline"](tmp_path / "model")
    spec = Job(model, "CogVideoXPipeline", ring=1, mode=OFF, num_frames=9, steps=2, prompts=("a red heart",)).spec()
    spec.output_dir = str(tmp_path / "out")
    spec.generation.frames_per_second = 12
    run_attempt(spec, rank=0, open_session=SingleSession.open, tell=lambda verdict: verdict)
    file = tmp_path / "out" / "videos" / "p0.mp4"
    about, frames = read_back(file)
    assert (about["fps"], frames.shape) == (12, (9, 64, 64, 3))
    with Image.open(tmp_path / "out" / "images" / "p0.png") as picture:
        assert picture.size == (STRIP_FRAMES * 64 + (STRIP_FRAMES - 1) * 2, 64)
    written = file.stat().st_mtime_ns
    run_attempt(spec, rank=0, open_session=SingleSession.open, tell=lambda verdict: verdict)
    assert file.stat().st_mtime_ns == written
    file.unlink()
    run_attempt(spec, rank=0, open_session=SingleSession.open, tell=lambda verdict: verdict)
    assert file.exists()
    write_report(tmp_path / "out")
    (told,) = json.loads((tmp_path / "out" / "report.json").read_text())["prompts"]
    assert (told["file"], told["video"]) == ("images/p0.png", "videos/p0.mp4")
    assert 'href="videos/p0.mp4"' in (tmp_path / "out" / "report.html").read_text()
