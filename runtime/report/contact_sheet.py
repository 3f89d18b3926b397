"""contact-sheet.png: every picture of a job on one sheet, with what it was asked to show."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from PIL import Image, ImageDraw, ImageFont

_GAP = 24
_CAPTION_POINTS = 15
_CAPTION_HEIGHT = 30
_SMALLEST_CELL, _LARGEST_CELL = 192, 384
_PAPER, _FRAME, _TEXT, _MUTED = "#ffffff", "#d9dde3", "#1b1f26", "#6b7280"


@dataclass(frozen=True, slots=True)
class Entry:
    """One place on the sheet; `picture` is None for one that is not made yet."""

    caption: str
    picture: Path | None


def contact_sheet(entries: Sequence[Entry], *, footer: str) -> Image.Image:
    """Return the sheet: as square as it goes, small pictures enlarged by whole factors, `footer` below.

    Raises:
        ValueError: no entries.
    """
    if not entries:
        raise ValueError("expected at least one picture for a contact sheet, got none")
    cell = _cell_size(entries)
    columns = min(len(entries), max(1, math.ceil(math.sqrt(1.6 * len(entries)))))
    rows = math.ceil(len(entries) / columns)
    width = _GAP + columns * (cell + _GAP)
    height = _GAP + rows * (cell + _CAPTION_HEIGHT + _GAP) + _CAPTION_HEIGHT
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = _font(_CAPTION_POINTS)
    for number, entry in enumerate(entries):
        left = _GAP + number % columns * (cell + _GAP)
        top = _GAP + number // columns * (cell + _CAPTION_HEIGHT + _GAP)
        _place(sheet, draw, entry, left, top, cell)
        caption = _shortened(entry.caption, font, cell)
        draw.text((left + cell / 2, top + cell + _CAPTION_HEIGHT / 2), caption, _TEXT, font, anchor="mm")
    shortened = _shortened(footer, font, width - 2 * _GAP)
    draw.text((_GAP, height - _CAPTION_HEIGHT), shortened, _MUTED, font, anchor="lm")
    return sheet


def _cell_size(entries: Sequence[Entry]) -> int:
    sizes = [_SMALLEST_CELL]
    for entry in entries:
        if entry.picture is not None:
            with Image.open(entry.picture) as image:
                sizes.append(max(image.size))
    return min(max(sizes), _LARGEST_CELL)


def _place(sheet: Image.Image, draw: ImageDraw.ImageDraw, entry: Entry, left: int, top: int, cell: int) -> None:
    draw.rectangle((left - 1, top - 1, left + cell, top + cell), outline=_FRAME)
    if entry.picture is None:
        draw.text((left + cell / 2, top + cell / 2), "not made yet", _MUTED, _font(13), anchor="mm")
        return
    with Image.open(entry.picture) as image:
        fitted = _fitted(image.convert("RGB"), cell)
    sheet.paste(fitted, (left + (cell - fitted.width) // 2, top + (cell - fitted.height) // 2))


def _fitted(image: Image.Image, cell: int) -> Image.Image:
    factor = cell / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)


def _font(points: int) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which comes with matplotlib and knows most scripts and signs; Pillow's own knows few."""
    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", points)


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"
