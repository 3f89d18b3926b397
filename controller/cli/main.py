"""`thinwire`, and `kubectl thinwire`: run, plan, calibrate, validate, status, version."""

from __future__ import annotations

import click

from thinwire import __version__
from thinwire.controller.cli.calibrate import calibrate
from thinwire.controller.cli.plan import plan
from thinwire.controller.cli.run import run
from thinwire.controller.cli.status import status
from thinwire.controller.cli.validate import validate


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Diffusion models in parallel, over links that are too thin for them."""


@main.command()
def version() -> None:
    """Print the version."""
    click.echo(f"thinwire {__version__}")


for command in (run, plan, calibrate, validate, status):
    main.add_command(command)
