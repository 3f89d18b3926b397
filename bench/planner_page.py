"""What `bench planner` found, for docs/planner.md."""

from typing import Any


def planner_section(told: dict[str, Any]) -> str:
    """Return the table of seconds per picture, predicted beside measured, and how well the ranking holds."""
    verdict = told["verdict"]
    lines = [
        f"One rank alone needs {told['alone_seconds']:.3f} s a step, a collective without bytes "
        f"{1e3 * told['fixed_seconds']:.2f} ms. Seconds per picture:",
        "",
        "| strategy | mode | Mbit/s | predicted | measured | predicted : measured |",
        "|---|---|---|---|---|---|",
    ]
    for cell in told["cells"]:
        predicted, measured = cell["predicted_seconds"], cell["measured_seconds"]
        mode = "uncompressed" if cell["mode"] == "Off" else "4 bits"
        lines.append(
            f"| {cell['strategy']} | {mode} | {cell['megabits']} | {predicted:.2f} | {measured:.2f} "
            f"| {predicted / measured:.2f} |"
        )
    lines += [
        "",
        f"{100 * verdict['pairs_in_order']:.0f} % of {verdict['pairs']:.0f} pairs of strategies that differ by more "
        "than a tenth come in the measured order.",
        f"The fastest strategy is the predicted one in {100 * verdict['best_predicted']:.0f} % of the settings; "
        f"elsewhere the predicted one takes at most {verdict['worst_regret']:.2f} times as long.",
        f"Predicted over measured: median {verdict['median_ratio']:.2f}, from {verdict['least_ratio']:.2f} to "
        f"{verdict['most_ratio']:.2f}.",
    ]
    return "\n".join(lines)
