"""The pictures of a job: which are there, whether they are this job's, and how a new one gets its name.

A picture is at OUT/images/NAME.png when and only when it is whole. What it was made from travels in the file itself,
as JSON under the PNG text key `thinwire`, so a folder can be judged without anything beside it.
"""

import contextlib
import io
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import Prompt, RunSpec
from thinwire.runtime.files import OutputError, output_error, partial_of, write_atomically
from thinwire.runtime.picture import Made
from thinwire.runtime.video import strip, write_video

METADATA_KEY = "thinwire"
_OF_VIDEOS = ("num_frames", "frames_per_second")
LONGEST_NAME_BYTES = 200
_END_OF_PNG = b"\0\0\0\0IEND\xaeB`\x82"


@dataclass(frozen=True, slots=True)
class PictureIdentity:
    """What a picture was made from. Two pictures of one identity are the same but for what the exchange lost."""

    prompt: str
    negative_prompt: str
    seed: int
    steps: int
    guidance_scale: float
    height: int
    width: int
    model: str
    """Fingerprint of the model folder."""
    num_frames: int = 0
    """Of a video; 0 for a picture."""
    frames_per_second: int = 0


@dataclass(frozen=True, slots=True)
class RateSpan:
    """Rates that held from `first_step` of the prompt on."""

    first_step: int
    rates: Mapping[str, int]
    """Millibits per value, by link class."""


@dataclass(frozen=True, slots=True)
class PictureMetadata:
    """All that a picture tells of itself."""

    name: str
    job: str
    identity: PictureIdentity
    rate_history: tuple[RateSpan, ...]
    versions: Mapping[str, str]
    link_is_emulated: bool = False

    def to_json(self) -> str:
        """Return the JSON object that the PNG carries; the identity's fields are at its top level."""
        whole = asdict(self)
        identity = whole.pop("identity")
        return json.dumps({**whole, **identity}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "PictureMetadata":
        """Read what `to_json` wrote.

        Raises:
            ValueError: not such an object.
        """
        try:
            raw: dict[str, Any] = json.loads(text)
            return cls(
                name=raw["name"],
                job=raw["job"],
                identity=PictureIdentity(
                    # Files of earlier versions say nothing of frames: they are pictures.
                    **{field: raw[field] for field in PictureIdentity.__dataclass_fields__ if field not in _OF_VIDEOS},
                    **{field: raw.get(field, 0) for field in _OF_VIDEOS},
                ),
                rate_history=tuple(RateSpan(span["first_step"], span["rates"]) for span in raw["rate_history"]),
                versions=raw["versions"],
                link_is_emulated=raw.get("link_is_emulated", False),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"expected the metadata of a thinwire picture, got {text[:80]!r}") from error


def identity_of(prompt: Prompt, spec: RunSpec, model: str) -> PictureIdentity:
    """Return what `prompt`'s picture is to be made from; `model` is the fingerprint of the model folder."""
    generation = spec.generation
    return PictureIdentity(
        prompt=prompt.prompt,
        negative_prompt=prompt.negative_prompt,
        seed=prompt.seed,
        steps=generation.steps,
        guidance_scale=generation.guidance_scale_milli / 1000,
        height=generation.height,
        width=generation.width,
        model=model,
        num_frames=generation.num_frames,
        frames_per_second=generation.frames_per_second,
    )


def read_metadata(path: Path) -> PictureMetadata:
    """Return what the picture at `path` tells of itself.

    Raises:
        ValueError: not a whole PNG, or not one of ours.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - len(_END_OF_PNG)))
        if file.read() != _END_OF_PNG:
            raise ValueError("expected a whole PNG, got one without its end")
    try:
        with Image.open(path, formats=["PNG"]) as image:
            text = getattr(image, "text", {}).get(METADATA_KEY)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"expected a PNG: {error}") from error
    if text is None:
        raise ValueError("expected thinwire's metadata in the PNG, found none")
    return PictureMetadata.from_json(text)


class OutputFolder:
    """OUT as rank 0 uses it. Only one process may write to it at a time (the front holds a lock)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images = root / "images"
        self.videos = root / "videos"
        self.events = root / "events.jsonl"

    def prepare(self) -> None:
        """Make the folders, remove what an earlier run left half-written, and try that the disk takes a file.

        Raises:
            OutputError: it cannot be written to.
        """
        try:
            self.images.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(self.images, error) from error
        for left_over in (*self.images.glob(".*.partial"), *self.videos.glob(".*.partial")):
            with contextlib.suppress(OSError):
                left_over.unlink()
        probe = self.images / "writable"
        try:
            partial_of(probe).write_bytes(b"\0" * 4096)
        except OSError as error:
            raise output_error(self.images, error) from error
        finally:
            with contextlib.suppress(OSError):
                partial_of(probe).unlink()

    def picture(self, name: str) -> Path:
        """Return where the picture of the prompt `name` belongs.

        Raises:
            OutputError: the name is empty, hidden, too long, or would leave the folder.
        """
        leaves = any(character in name for character in "/\\\0") or name.startswith(".")
        if not name or leaves or len(name.encode("utf-8", "surrogatepass")) > LONGEST_NAME_BYTES:
            raise OutputError(
                f"prompt name {name!r} cannot name a picture, expected 1 to {LONGEST_NAME_BYTES} bytes without slashes"
                " and without a leading dot; rename it"
            )
        return self.images / f"{name}.png"

    def video(self, name: str) -> Path:
        """Return where the video of the prompt `name` belongs; errors as `picture`."""
        return self.videos / f"{self.picture(name).stem}.mp4"

    def pending(self, wanted: Iterable[tuple[str, PictureIdentity]]) -> list[str]:
        """Return the names, in the order given, whose picture is not there yet.

        Raises:
            OutputError: a picture is there that was made from something else, or that cannot be read.
        """
        missing: list[str] = []
        for name, identity in wanted:
            path = self.picture(name)
            if not path.exists() or (identity.num_frames and not self.video(name).exists()):
                missing.append(name)
                continue
            try:
                found = read_metadata(path).identity
            except (OSError, ValueError) as error:
                raise OutputError(
                    f"{path} is no picture of thinwire's ({error}); use another --output or remove it"
                ) from error
            for field in PictureIdentity.__dataclass_fields__:
                was, expected = getattr(found, field), getattr(identity, field)
                if was != expected:
                    raise OutputError(
                        f"{path} was made from another {field.replace('_', ' ')}: expected {expected!r}, got {was!r};"
                        " use another --output or remove it"
                    )
        return missing

    def write(self, made: Made, metadata: PictureMetadata) -> Path:
        """Put a finished picture in its place, all or nothing, and return the place: of a video, that of the MP4.

        Raises:
            OutputError: no space, no permission, or a name that would leave the folder.
        """
        if isinstance(made, Image.Image):
            return self._write_picture(made, metadata)
        path = self.video(metadata.name)
        try:
            self.videos.mkdir(exist_ok=True)
        except OSError as error:
            raise output_error(self.videos, error) from error
        write_video(path, made, metadata.to_json())
        self._write_picture(strip(made), metadata)
        return path

    def _write_picture(self, image: Image.Image, metadata: PictureMetadata) -> Path:
        path = self.picture(metadata.name)
        text = PngImagePlugin.PngInfo()
        text.add_itxt("Description", metadata.identity.prompt)
        text.add_itxt("Software", f"thinwire {metadata.versions.get('thinwire', '')}".strip())
        text.add_itxt(METADATA_KEY, metadata.to_json())
        encoded = io.BytesIO()
        image.save(encoded, format="PNG", pnginfo=text)
        write_atomically(path, encoded.getvalue())
        return path
