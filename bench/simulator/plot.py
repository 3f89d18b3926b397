"""Two pictures in one: how the rate follows some traces beside the oracle's, and every row's regret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt

SHOWN = (
    "step, tenfold drop for 4.5 prompts",
    "ramp, hundredfold down and up",
    "saw-tooth, 40 steps",
    "recorded busy machine, hundredfold drop",
)


def draw(result: dict[str, Any], file: Path) -> None:
    """Write the plot of a result file of `python -m bench simulate`."""
    matplotlib.use("Agg")
    figure, axes = plt.subplots(len(SHOWN), 1, figsize=(8, 9), layout="constrained")
    rows = {row["name"]: row for row in result["scenarios"]}
    for axis, name in zip(axes, SHOWN, strict=True):
        outcome = rows[name]["seeds"][0]
        for link_class, rates in outcome["law_rates"].items():
            best = outcome["oracle_rates"][link_class]
            axis.step(range(len(best)), [rate / 1000 for rate in best], where="post", color="0.7", label="oracle")
            axis.step(range(len(rates)), [rate / 1000 for rate in rates], where="post", color="C0", label="law")
        axis.set(title=name, yscale="log", ylabel="bits per value")
    axes[0].legend(loc="upper right")
    axes[-1].set_xlabel("step")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110, metadata={"Software": None})
    plt.close(figure)
