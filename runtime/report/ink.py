"""Matplotlib figures as SVG that takes its colours and its type from the page, so one drawing serves light and dark.

Figures are drawn in stand-in colours; `svg_of` replaces each by the CSS variable of the same name, and leaves text as
text (`svg.fonttype: none`), so that it is set in the page's own type and can be selected.
"""

import html
import io
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from matplotlib.figure import Figure


class Ink(StrEnum):
    """Stand-in colours: each is the CSS variable `--name` of the page."""

    TEXT = "#010101"
    MUTED = "#020202"
    GRID = "#030303"
    BAND = "#040404"
    FIRST = "#050505"
    SECOND = "#060606"
    THIRD = "#070707"
    FOURTH = "#080808"
    ALARM = "#090909"
    SURFACE = "#0a0a0a"


SERIES = (Ink.FIRST, Ink.SECOND, Ink.THIRD, Ink.FOURTH)

STYLE: Mapping[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "thinwire",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.edgecolor": Ink.GRID.value,
    "axes.facecolor": "none",
    "axes.labelcolor": Ink.MUTED.value,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "grid.color": Ink.GRID.value,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.labelcolor": Ink.MUTED.value,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "text.color": Ink.TEXT.value,
    "xtick.color": Ink.MUTED.value,
    "ytick.color": Ink.MUTED.value,
    "xtick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
}


def svg_of(figure: Figure, *, key: str, label: str) -> str:
    """Return `figure` as an `<svg>` element for a page that defines the colours.

    `key` keeps its identifiers apart from those of other drawings on the page; `label` describes it to who cannot see.
    """
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = drawn.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'^<svg([^>]*?) width="[^"]*"', r"<svg\1", svg)
    svg = re.sub(r'^<svg([^>]*?) height="[^"]*"', r"<svg\1", svg)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(label)}" ', 1)
    svg = re.sub(r"font: (?:\d+ )?([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{key}-", svg)
    for ink in Ink:
        svg = svg.replace(ink.value, f"var(--{ink.name.lower()})")
    return svg
