"""Every way of making one picture over really shaped links: time and fidelity at bandwidths that are thin for it.

Each rank is in its own network namespace behind a token bucket, two ranks with one thread each on two cores: more would
wait for processors instead of links. Ranks are forked from one warm process, join their peers, make connections and
take their first steps before anything is timed; variants of one kind follow each other in the same ranks, and kinds
take turns. The result file grows run by run: the same command goes on where the last one stopped. What fails
is noted with its cause and does not stop the rest. Needs root.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from rich.console import Console

from bench.in_box import in_box_model
from bench.sweep import plot, table
from bench.sweep.plan import RATIOS, Layout, Planned, expected_seconds, in_sessions, planned_runs
from bench.sweep.result import ResultFile
from bench.sweep.run import Made, Setting, Task, make_alone, make_together
from bench.sweep.variants import OFF, ONE_PROCESS, QUICK, VARIANTS, Kind
from tests.harness.ranks import RankError, run_ranks
from tests.netlab.kernel import NetlabError
from tests.netlab.lab import Lab

NODES = 2
_LEAST_TIMEOUT_SECONDS = 90.0
_PATIENCE = 4.0


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench links", description=__doc__)
    parser.add_argument(
        "--ratios", default=",".join(f"{ratio:g}" for ratio in RATIOS), help="communication / computing"
    )
    parser.add_argument("--variants", default="", help="names, separated by commas; default: all")
    parser.add_argument("--turns", type=int, default=5, help="runs of every variant at every ratio")
    parser.add_argument("--first-turn", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0.0, help="begin no run that would end later; 0 for no limit")
    parser.add_argument(
        "--calibration", type=Path, default=None, help="what transform rungs need; default: the model's"
    )
    parser.add_argument("--again", action="store_true", help="make what has failed again")
    parser.add_argument("--quick", action="store_true", help="two ratios, four variants, one turn: under 5 minutes")
    parser.add_argument("--output", type=Path, default=Path("links.json"), help="raw figures; taken up again if there")
    parser.add_argument("--plots", type=Path, default=None, help="folder for links.png and links-front.png")
    args = parser.parse_args(arguments)
    console = Console()
    known = {variant.name: variant for variant in VARIANTS}
    names = [variant.name for variant in QUICK] if args.quick else list(filter(None, args.variants.split(",")))
    if unknown := [name for name in names if name not in known]:
        parser.error(f"--variants: expected some of {', '.join(known)}, got {unknown[0]!r}")
    setting = _setting(args.calibration)
    variants = [known[name] for name in names] or [
        variant for variant in VARIANTS if setting.is_calibrated or "transform" not in variant.rung
    ]
    ratios = [2.0, 18.0] if args.quick else [float(ratio) for ratio in args.ratios.split(",")]
    turns = range(args.first_turn, args.first_turn + (1 if args.quick else args.turns))
    os.environ["OMP_NUM_THREADS"] = "1"
    result = ResultFile.taken_up(args.output, setting)
    if args.again:
        result.forget_failures()
    planned = planned_runs(variants, ratios, turns)
    try:
        with Lab(NODES) as lab:
            _run_all(lab, result, planned, args.seconds, console)
    except NetlabError as error:
        console.print(str(error))
        return 2
    console.print(table.rich_table(result.told))
    if args.plots is not None:
        plot.draw(result.told, args.plots)
    return 0


def _setting(calibration: Path | None) -> Setting:
    from bench.prompts import MEASURED

    return Setting(
        model=in_box_model(),
        calibration=str(calibration.absolute()) if calibration else "",
        steps=28,
        guidance=3.0,
        pixels=64,
        target_stall_percent=25,
        min_millibits=500,
        max_relative_error_milli=300,
        prompts=MEASURED,
        first_seed=1000,
    )


def _run_all(lab: Lab, result: ResultFile, planned: list[Planned], seconds: float, console: Console) -> None:
    began = time.monotonic()
    if result.layout is None:
        console.print("computing time and bytes of a step, links without limit ...")
        result.keep_layout(_measured(lab, result.setting))
    layout = result.layout
    assert layout is not None
    console.print(
        f"computing {layout.compute_seconds * 1e3:.1f} ms a step, {layout.bytes_per_step / 1e6:.2f} MB of each rank: "
        f"ratio 18 is {layout.bits_per_second(18) / 1e6:.1f} Mbit/s"
    )
    missing = [run for run in planned if not result.has(run)]
    console.print(f"{len(planned) - len(missing)} of {len(planned)} runs are there already")
    sessions = in_sessions(missing, layout, result.setting.steps)
    expected = [expected_seconds(session, layout, result.setting.steps) for session in sessions]
    for number, session in enumerate(sessions):
        spent, foreseen = time.monotonic() - began, sum(expected[:number])
        pace = spent / foreseen if foreseen else 1.0
        if seconds and spent + pace * expected[number] > seconds:
            left = sum(map(len, sessions[number:]))
            console.print(f"stopped after {spent:.0f} s, {left} runs left; run the same command again")
            return
        minutes = pace * sum(expected[number:]) / 60
        console.print(f"[{number + 1}/{len(sessions)}, about {minutes:.1f} min left]", highlight=False)
        _run_session(lab, result, session, layout, console)


def _run_session(lab: Lab, result: ResultFile, session: list[Planned], layout: Layout, console: Console) -> None:
    """Make the runs of a session; if that fails, each of them alone, and what fails then is noted with its cause."""
    try:
        made, passed = _made(lab, result, session, layout)
    except (RankError, NetlabError) as error:
        if len(session) > 1:
            console.print("  failed together, each alone now")
            for run in session:
                _run_session(lab, result, [run], layout, console)
            return
        (run,) = session
        result.keep_failure(run, str(error))
        console.print(f"  ratio {run.ratio:g}, {run.variant.name}: failed: {str(error).splitlines()[-1]}", markup=False)
        return
    for run, one in zip(session, made, strict=True):
        console.print(f"  {table.one_line(result.keep(run, one, passed))}", highlight=False)


def _measured(lab: Lab, setting: Setting) -> Layout:
    tasks = [Task(OFF, 0, setting.steps)]
    made: list[Made] = run_ranks(NODES, make_together, setting, lab, tasks, 0, local_world_size=1, timeout_seconds=300)[
        0
    ]
    (picture,) = made[0].pictures
    return Layout(picture.compute_seconds, picture.bytes_per_step)


def _made(lab: Lab, result: ResultFile, session: list[Planned], layout: Layout) -> tuple[list[Made], int]:
    """Make one session's pictures; returns them, run by run, and the bytes that the interfaces sent meanwhile."""
    setting, run, variant = result.setting, session[0], session[0].variant
    timeout_seconds = max(_LEAST_TIMEOUT_SECONDS, _PATIENCE * expected_seconds(session, layout, setting.steps))
    if variant.kind is Kind.ONE_PROCESS:
        alone: Made = run_ranks(1, make_alone, setting, variant, run.turn, timeout_seconds=timeout_seconds)[0]
        return [alone], 0
    for turn in {(run.turn - back) % len(setting.prompts) for back in range(variant.pictures)}:
        if not result.has_reference(turn):
            alone = run_ranks(1, make_alone, setting, ONE_PROCESS, turn, timeout_seconds=timeout_seconds)[0]
            result.keep_reference(turn, alone.pixels[0])
    lab.shape_all(0)
    tasks = [Task(one.variant, layout.bits_per_second(one.ratio), one.made_steps(setting.steps)) for one in session]
    before = [lab.counters(node) for node in range(lab.nodes)]
    first = run.turn - variant.pictures + 1
    made: list[Made] = run_ranks(
        variant.ranks,
        make_together,
        setting,
        lab,
        tasks,
        first,
        local_world_size=1,
        timeout_seconds=timeout_seconds,
    )[0]
    counted = sum(picture.sent_bytes for one in made for picture in one.pictures)
    return made, lab.require_passed(before, counted, variant.name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
