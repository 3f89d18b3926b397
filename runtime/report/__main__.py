"""`python -m thinwire.runtime.report OUT`: report.json, report.html and contact-sheet.png from what a run left in OUT.

May be run at any time, also while the run goes on and after it was cut short.
"""

import argparse
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thinwire.runtime.errors import BadInputError
from thinwire.runtime.events import read_events
from thinwire.runtime.files import write_atomically
from thinwire.runtime.process import ExitCode
from thinwire.runtime.report.contact_sheet import Entry, contact_sheet
from thinwire.runtime.report.page import render_page
from thinwire.runtime.report.plots import draw_plots
from thinwire.runtime.report.story import tell
from thinwire.runtime.report.summary import summarise


def write_report(output: Path) -> list[Path]:
    """Write the three files into `output`, and return their paths.

    Raises:
        BadInputError: nothing has run there, something in it cannot be read, or it cannot be written to.
    """
    events = output / "events.jsonl"
    try:
        story = tell(read_events(events))
    except OSError as error:
        raise BadInputError(f"{events} cannot be read ({error}); name the output folder of a run") from error
    if not story.attempts:
        raise BadInputError(f"{events} tells of no attempt, expected the output folder of a run; name one")
    try:
        summary = summarise(story, output)
    except ValueError as error:
        raise BadInputError(f"the comparison cannot be read ({error}); compare again") from error
    page = render_page(summary, draw_plots(story), output)
    files = {
        "report.json": json.dumps(summary, indent=2, ensure_ascii=False).encode() + b"\n",
        "report.html": page.encode(),
        "contact-sheet.png": _sheet(summary, output),
    }
    for name, content in files.items():
        write_atomically(output / name, content)
    return [output / name for name in files]


def _sheet(summary: dict[str, Any], output: Path) -> bytes:
    entries = [
        Entry(prompt["prompt"] or prompt["name"], output / prompt["file"] if prompt["file"] else None)
        for prompt in summary["prompts"]
    ]
    ranks = f"{summary['world_size']} {'rank' if summary['world_size'] == 1 else 'ranks'}"
    link = ", emulated link" if summary["emulated"] else ""
    footer = f"{summary['job']['name']}: {ranks}{link}, thinwire {summary['versions'].get('thinwire', '')}"
    written = io.BytesIO()
    contact_sheet(entries, footer=footer).save(written, format="PNG")
    return written.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report of the output folder named on the command line, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m thinwire.runtime.report", description="write a run's report")
    parser.add_argument("output", type=Path, help="the output folder of a run")
    try:
        for path in write_report(parser.parse_args(arguments).output):
            sys.stdout.write(f"{path}\n")
    except BadInputError as error:
        sys.stderr.write(f"thinwire: {error}\n")
        return ExitCode.BAD_INPUT
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
