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
_WIDEST_STRIP = 1152
_STRIP_ASPECT = 2.0
"""From this ratio of width to height on a picture is a video's strip, and cells are as low as it is."""
Size = tuple[int, int]
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
    cell_width, cell_height = _cell_size(entries)
    wanted = math.ceil(math.sqrt(1.6 * len(entries) * cell_height / cell_width))
    columns = min(len(entries), max(1, wanted))
    rows = math.ceil(len(entries) / columns)
    width = _GAP + columns * (cell_width + _GAP)
    height = _GAP + rows * (cell_height + _CAPTION_HEIGHT + _GAP) + _CAPTION_HEIGHT
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = _font(_CAPTION_POINTS)
    for number, entry in enumerate(entries):
        left = _GAP + number % columns * (cell_width + _GAP)
        top = _GAP + number // columns * (cell_height + _CAPTION_HEIGHT + _GAP)
        _place(sheet, draw, entry, (left, top), (cell_width, cell_height))
        caption = _shortened(entry.caption, font, cell_width)
        middle = (left + cell_width / 2, top + cell_height + _CAPTION_HEIGHT / 2)
        draw.text(middle, caption, _TEXT, font, anchor="mm")
    shortened = _shortened(footer, font, width - 2 * _GAP)
    draw.text((_GAP, height - _CAPTION_HEIGHT), shortened, _MUTED, font, anchor="lm")
    return sheet


def _cell_size(entries: Sequence[Entry]) -> Size:
    """Return width and height of every cell: a square, or as low as the strips where all pictures are strips."""
    sizes = []
    for entry in entries:
        if entry.picture is not None:
            with Image.open(entry.picture) as image:
                sizes.append(image.size)
    aspect = min((width / height for width, height in sizes), default=1.0)
    longest = max((max(size) for size in sizes), default=0)
    if aspect >= _STRIP_ASPECT:
        width = min(max(longest, _LARGEST_CELL), _WIDEST_STRIP)
        return width, round(width / aspect)
    side = min(max(longest, _SMALLEST_CELL), _LARGEST_CELL)
    return side, side


def _place(sheet: Image.Image, draw: ImageDraw.ImageDraw, entry: Entry, at: Size, cell: Size) -> None:
    (left, top), (width, height) = at, cell
    draw.rectangle((left - 1, top - 1, left + width, top + height), outline=_FRAME)
    if entry.picture is None:
        draw.text((left + width / 2, top + height / 2), "not made yet", _MUTED, _font(13), anchor="mm")
        return
    with Image.open(entry.picture) as image:
        fitted = _fitted(image.convert("RGB"), cell)
    sheet.paste(fitted, (left + (width - fitted.width) // 2, top + (height - fitted.height) // 2))


def _fitted(image: Image.Image, cell: Size) -> Image.Image:
    factor = min(cell[0] / image.width, cell[1] / image.height)
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
