"""Videos: an MP4 (H.264) of all frames, and a strip of some of them that stands for it wherever a picture would.

The strip is the video's picture: it carries the metadata, is written after the video, and so says that both are whole.
"""

from pathlib import Path

import imageio_ffmpeg
import numpy
from PIL import Image

from thinwire.runtime.files import OutputError, partial_of, put_in_place
from thinwire.runtime.picture import Video

STRIP_FRAMES = 6
_GAP = 2
_CONSTANT_RATE_FACTOR = "14"
"""H.264's quality: lower is better, 18 is said to look lossless."""


def strip(video: Video) -> Image.Image:
    """Return at most `STRIP_FRAMES` frames side by side, the first and the last among them."""
    count = min(STRIP_FRAMES, len(video.frames))
    chosen = numpy.linspace(0, len(video.frames) - 1, count).round().astype(int)
    height, width = video.frames.shape[1:3]
    sheet = Image.new("RGB", (count * width + (count - 1) * _GAP, height), "white")
    for place, number in enumerate(chosen):
        sheet.paste(Image.fromarray(video.frames[number]), (place * (width + _GAP), 0))
    return sheet


def write_video(path: Path, video: Video, comment: str) -> None:
    """Write an MP4 at `path`, all or nothing; `comment` travels in it.

    Raises:
        OutputError: the encoder could not write it; what was at `path` before is still there.
    """
    partial = partial_of(path)
    height, width = video.frames.shape[1:3]
    try:
        writer = imageio_ffmpeg.write_frames(
            str(partial),
            (width, height),
            fps=video.frames_per_second,
            codec="libx264",
            quality=None,
            macro_block_size=2,
            ffmpeg_log_level="error",
            output_params=[
                *("-crf", _CONSTANT_RATE_FACTOR, "-movflags", "+faststart", "-threads", "2"),
                *("-metadata", f"comment={comment}", "-f", "mp4"),
            ],
        )
        writer.send(None)
        for frame in video.frames:
            writer.send(numpy.ascontiguousarray(frame))
        writer.close()
    except OSError as error:
        partial.unlink(missing_ok=True)
        said = " ".join(str(error).split())[-300:]
        raise OutputError(
            f"cannot write {path}: the video encoder ended early ({said}); free some space or use another --output"
        ) from error
    put_in_place(partial, path)
