"""report.html: one file without anything from outside, for a browser in light or dark."""

import base64
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from thinwire.runtime.report.plots import Plot

_LARGEST_EMBEDDED_PIXELS = 512
_LARGEST_COMPARED_PIXELS = 256
_COMPARED = Path(".thinwire/compare")


def render_page(summary: dict[str, Any], plots: Sequence[Plot], output: Path) -> str:
    """Return the page for `summary` (report.json's object), its plots, and the pictures in `output`."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "bits": _bits,
        "bytes": _bytes,
        "clock": _clock,
        "percent": _percent,
        "seconds": _seconds,
    }
    finished = [prompt for prompt in summary["prompts"] if prompt["file"]]
    pictures = {prompt["name"]: _embedded(output / prompt["file"], _LARGEST_EMBEDDED_PIXELS) for prompt in finished}
    compared = {
        kind: {
            prompt["name"]: _embedded(path, _LARGEST_COMPARED_PIXELS)
            for prompt in finished
            if (path := output / _COMPARED / kind / prompt["file"]).exists()
        }
        for kind in summary["comparison"] or {}
    }
    likeness = {
        kind: {picture["name"]: picture for picture in other.get("pictures", [])}
        for kind, other in (summary["comparison"] or {}).items()
    }
    return environment.get_template("template.html").render(
        report=summary, plots=plots, pictures=pictures, compared_pictures=compared, likeness=likeness
    )


def _embedded(path: Path, largest_pixels: int) -> str:
    """Return a picture as a data URL: as it is if small, else reduced."""
    content = path.read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        if max(image.size) <= largest_pixels:
            return "data:image/png;base64," + base64.b64encode(content).decode()
        reduced = image.convert("RGB")
    reduced.thumbnail((largest_pixels, largest_pixels), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    reduced.save(written, format="WEBP", quality=90)
    return "data:image/webp;base64," + base64.b64encode(written.getvalue()).decode()


def _bits(millibits: float) -> str:
    return f"{millibits / 1000:.3g}"


def _bytes(count: float) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f} B"


def _percent(fraction: float) -> str:
    percent = 100 * fraction
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.2g} %"


def _seconds(seconds: float) -> str:
    if seconds >= 120:
        return f"{int(seconds // 60)} min {round(seconds % 60)} s"
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{1000 * seconds:.0f} ms"


def _clock(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
