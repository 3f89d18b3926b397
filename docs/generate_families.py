"""Write docs/families.md from the code that decides: `python docs/generate_families.py [--check]`.

`--check` writes nothing and fails if the file is not what the code would give.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from thinwire.controller.manifest.preflight.families import FAMILIES, NOT_RUN, Family, TextTokens
from thinwire.controller.manifest.preflight.strategies import Standing, Strategy, verdict

TARGET = Path(__file__).resolve().parent / "families.md"
_MARKS = {Standing.SUPPORTED: "yes", Standing.REFUSED: "refused", Standing.NOT_UPSTREAM: "not upstream"}
_TEXT = {
    TextTokens.NONE: "by cross-attention: it is never exchanged",
    TextTokens.T5: "with the image, in one attention",
    TextTokens.CLIP_AND_T5: "with the image, in one attention (CLIP's tokens, then T5's)",
}
_REST = "## What was found on the way"


def main() -> int:
    """Write the page, or with --check compare it; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the file is out of date")
    arguments = parser.parse_args()
    if not arguments.check:
        TARGET.write_text(page(), encoding="utf-8")
        return 0
    if TARGET.is_file() and TARGET.read_text(encoding="utf-8") == page():
        return 0
    sys.stderr.write(f"{TARGET.name}: expected what the code decides, got something else; run {Path(__file__).name}\n")
    return 1


def page() -> str:
    """Return the whole page."""
    reasons: list[str] = []
    rows = [_row(family, reasons) for family in FAMILIES]
    header = ["family", "makes", *(strategy.value for strategy in Strategy)]
    return (
        "\n".join(
            [
                "# Families and strategies",
                "",
                f"<!-- Written by docs/{Path(__file__).name} from controller/manifest/preflight; run it again. -->",
                "",
                "Which pipeline of diffusers runs in which parallel strategy. `thinwire validate`, `thinwire plan` and",
                "automatic degrees ask the same code. *Not upstream*: xfuser 0.7.0 does not do it; *refused*: thinwire",
                "does not let it run.",
                "",
                "| " + " | ".join(header) + " |",
                "|" + "---|" * len(header),
                *rows,
                "",
                *(f"{number}. {reason}" for number, reason in enumerate(reasons, start=1)),
                "",
                "## Families",
                "",
                "| pipeline | text | text length | ranks of a sequence must divide |",
                "|---|---|---|---|",
                *(_family(family) for family in FAMILIES),
                "",
                "## Newer families that do not run",
                "",
                "| pipeline | why not |",
                "|---|---|",
                *(f"| `{pipeline}` | {reason} |" for pipeline, reason in NOT_RUN.items()),
                "",
                _rest(),
            ]
        ).rstrip("\n")
        + "\n"
    )


def _rest() -> str:
    """Return what people have written below the tables: it stays."""
    written = TARGET.read_text(encoding="utf-8") if TARGET.is_file() else ""
    return written[written.index(_REST) :] if _REST in written else _REST + "\n"


def _row(family: Family, reasons: list[str]) -> str:
    cells = [f"`{family.pipeline}`", "video" if family.makes_video else "pictures"]
    for strategy in Strategy:
        found = verdict(family, strategy)
        mark = _MARKS[found.standing]
        if found.reason:
            if found.reason not in reasons:
                reasons.append(found.reason)
            mark += f" ({reasons.index(found.reason) + 1})"
        cells.append(mark)
    return "| " + " | ".join(cells) + " |"


def _family(family: Family) -> str:
    divided = "rows of tokens, text" if family.text_must_divide else "rows of tokens"
    divided = divided if family.shares_rows else "tokens"
    text, length = _TEXT[family.text], family.default_max_sequence_length
    most = "each prompt's, at most " if family.text_varies else ""
    return f"| `{family.pipeline}` | {text} | {most}{length}, or as thinwire.json says | {divided} |"


if __name__ == "__main__":
    raise SystemExit(main())
