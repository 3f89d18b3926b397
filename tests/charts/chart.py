"""The chart as helm renders it, without a cluster."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.binaries import CHART_TOOLS, found

CHART = Path(__file__).resolve().parents[2] / "charts" / "thinwire"
NAMESPACE = "thinwire-system"
Raw = dict[str, Any]


class ChartRefused(Exception):  # noqa: N818 - an answer, not a fault
    """What helm said of values that it did not take."""


def helm(*arguments: str) -> str:
    """What helm prints; raises ChartRefused."""
    command = [str(found(CHART_TOOLS).path("helm")), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise ChartRefused(done.stderr)
    return done.stdout


def rendered(*values: str) -> dict[tuple[str, str], Raw]:
    """Every object by kind and name (namespaced ones of the same name: by kind and NAMESPACE/NAME where it differs)."""
    chosen = [word for value in values for word in ("--set-json", value)]
    objects = yaml.safe_load_all(helm("template", "thinwire", str(CHART), "--namespace", NAMESPACE, *chosen))
    return {_key(one): one for one in objects if one}


def _key(one: Raw) -> tuple[str, str]:
    namespace = one["metadata"].get("namespace", NAMESPACE)
    name = one["metadata"]["name"]
    return one["kind"], name if namespace == NAMESPACE else f"{namespace}/{name}"
