"""`thinwire calibrate MODEL`: measure, once per model, what its transform rungs need."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress

from thinwire.controller.cli.errors import Failed, Refused
from thinwire.controller.manifest.job import BundledModel, FolderModel, ModelSource
from thinwire.controller.manifest.preflight.location import located
from thinwire.controller.manifest.preflight.model_folder import CALIBRATION_FILE
from thinwire.controller.manifest.refusal import ManifestError

_FEWEST_STEPS = 4
_COST_PROMPTS = 4
_WIDEST_BLOCK = 256
_BAD_INPUT = 2


@click.command()
@click.argument("model")
@click.option("--prompt", "prompts", multiple=True, metavar="TEXT", help="Calibrate with this; again for more.")
@click.option("--steps", default=28, help="Denoising steps of each picture.")
@click.option("--guidance", default=3.0, help="Guidance scale.")
@click.option("--pixels", default=0, help="Side of the pictures; 0 takes the model's own.")
@click.option(
    "--cost-prompts", default=_COST_PROMPTS, help="Prompts that costs are measured on; 0: every place the same rate."
)
@click.option(
    "--widest-block",
    default=_WIDEST_BLOCK,
    help="Channels that a basis turns together at most: more find more, and take longer to code.",
)
@click.option(
    "--output", type=click.Path(path_type=Path), help=f"File to write; default: {CALIBRATION_FILE} in the model."
)
def calibrate(
    model: str,
    prompts: tuple[str, ...],
    steps: int,
    guidance: float,
    pixels: int,
    cost_prompts: int,
    widest_block: int,
    output: Path | None,
) -> None:
    """Measure bases and costs of MODEL, the name of a bundled model or a folder, and write them beside it.

    With that file its jobs code at any rate from 0.25 bits per value on.
    """
    if steps < _FEWEST_STEPS:
        raise Refused(f"--steps: expected {_FEWEST_STEPS} or more, got {steps}; raise it")
    if cost_prompts < 0:
        raise Refused(f"--cost-prompts: expected 0 or more, got {cost_prompts}; raise it")
    if widest_block < 1:
        raise Refused(f"--widest-block: expected 1 or more, got {widest_block}; raise it")
    if importlib.util.find_spec("torch") is None:
        raise Refused("expected torch and diffusers here, got none; run `pip install 'thinwire[runtime]'`")
    source: ModelSource = FolderModel(model) if Path(model).is_dir() else BundledModel(model)
    try:
        folder = located(source)
    except ManifestError as error:
        raise Refused(f"MODEL: expected a folder or a bundled model, got {model!r}; name another") from error
    output = (output or Path(str(folder)) / CALIBRATION_FILE).absolute()
    command = [sys.executable, "-m", "thinwire.runtime.calibrate", str(folder), "--output", str(output)]
    command += ["--steps", str(steps), "--guidance", str(guidance), "--pixels", str(pixels)]
    command += ["--cost-prompts", str(cost_prompts), "--widest-block", str(widest_block)]
    for prompt in prompts:
        command += ["--prompt", prompt]
    _run(command)
    click.echo(f"{output}: {output.stat().st_size / 1e6:.2f} MB")


def _run(command: list[str]) -> None:
    """Run the measuring process and show how far it is; raises Refused or Failed with its last words."""
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process,
        Progress(console=Console(stderr=True)) as progress,
    ):
        assert process.stdout is not None
        assert process.stderr is not None
        task = progress.add_task("starting", total=None)
        for line in process.stdout:
            said = json.loads(line)
            progress.update(task, description=said["what"], completed=said["done"], total=said["total"])
        words = process.stderr.read().strip().splitlines()
    if process.returncode:
        kind = Refused if process.returncode == _BAD_INPUT else Failed
        raise kind((words or ["the measuring process said nothing"])[-1].removeprefix("thinwire: "))
