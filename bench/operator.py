"""The operator at scale: many jobs, each with a telemetry stream at 1 Hz, on one core against a real API server."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from bench.operator_scale.measure import Setting, measure
from bench.operator_scale.page import write_page
from bench.operator_scale.table import table

DOCS = Path(__file__).resolve().parent.parent / "docs"
RESULT = DOCS / "results/operator.json"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench operator", description=__doc__)
    parser.add_argument("--sizes", default="125,250,500,1000", help="numbers of jobs, one run each")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the steady part of a run")
    parser.add_argument("--quick", action="store_true", help="50 and 100 jobs, 15 seconds each")
    parser.add_argument("--again", action="store_true", help="measure sizes anew that the result file has already")
    parser.add_argument("--output", type=Path, default=RESULT)
    asked = parser.parse_args(arguments)
    sizes = [50, 100] if asked.quick else [int(size) for size in asked.sizes.split(",")]
    seconds = 15.0 if asked.quick else asked.seconds
    result = json.loads(asked.output.read_text()) if asked.output.exists() else {"runs": []}
    for size in sizes:
        done = [run["jobs"] for run in result["runs"]]
        if size in done and not asked.again:
            print(f"{size} jobs: in {asked.output} already", flush=True)
            continue
        run = measure(Setting(jobs=size, seconds=seconds))
        result["runs"] = sorted([*(one for one in result["runs"] if one["jobs"] != size), run], key=_jobs)
        asked.output.parent.mkdir(parents=True, exist_ok=True)
        asked.output.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))
    if asked.output == RESULT:
        write_page(result, DOCS)
    return 0


def _jobs(run: dict[str, int]) -> int:
    return run["jobs"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
