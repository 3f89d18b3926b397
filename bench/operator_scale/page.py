"""docs/benchmarks-operator.md and its plot, made from a result file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt

from bench.operator_scale.table import table

PLOT = "images/operator-scale.png"
_INK, _ACCENT = "#3b4252", "#2a6f97"


def write_page(result: dict[str, Any], docs: Path) -> None:
    (docs / "benchmarks-operator.md").write_text(page(result), encoding="utf-8")
    draw(result, docs / PLOT)


def page(result: dict[str, Any]) -> str:
    about = result["runs"][-1]["about"]
    return f"""# The operator at scale

Made by `python -m bench operator` from `docs/results/operator.json`; a run takes one to four minutes a size.

A real API server and etcd, without a node. The controller has one core to itself; etcd, the API server and the load
have the others. Every job is submitted through the API; each then has a telemetry stream that reports a step a second,
as rank 0 would, over links whose throughput wavers by a tenth. After the steady part the rate limits of single jobs
are edited, and the time until their status speaks of the edit is taken; then the controller is killed (SIGKILL) and
started again, until it knows all jobs, hears all streams and has nothing in line.

{table(result)}

- **start of all**: from the first job's submission until every job has its Indexed Job, Service and ConfigMap.
- **pass**: one reconciliation of one job, its requests to the API server included. **wait in line**: from the moment
  that something changed until a worker takes the job. Quantiles of the controller's own histograms, interpolated.
- **event to status**: from the API server's answer to an edit until the status has the new `observedGeneration`.
- **core**: of the one core, all threads. **memory**: the largest resident set, the interpreter and the Kubernetes
  client included.

![Core, memory and restart over the number of jobs]({PLOT})

{about["machine"]}; load average before the runs {_loads(result)}, niceness of all parts {about["nice"]}.
Commit {about["commit"][:12]}; thinwire {about["thinwire"]}, kubernetes {about["kubernetes"]}, grpcio {about["grpcio"]}.
"""


def _loads(result: dict[str, Any]) -> str:
    return ", ".join(f"{run['about']['load_before']:.1f}" for run in result["runs"])


def draw(result: dict[str, Any], file: Path) -> None:
    """Core and memory over the number of jobs: lines, if the cost is linear."""
    runs = result["runs"]
    jobs = [run["jobs"] for run in runs]
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    panels = (
        ("core, percent", [run["core_percent"] for run in runs]),
        ("memory, MiB", [run["peak_memory_mebibytes"] for run in runs]),
        ("restart settles, s", [run["restart_seconds"] for run in runs]),
    )
    for place, (name, values) in zip(axes, panels, strict=True):
        place.plot(jobs, values, marker="o", color=_ACCENT)
        place.set_xlabel("jobs, one report a second each", color=_INK)
        place.set_title(name, color=_INK, fontsize=10)
        place.set_ylim(bottom=0)
        place.set_xlim(left=0)
        place.grid(alpha=0.25)
        place.spines[["top", "right"]].set_visible(False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130)
    plt.close(figure)
