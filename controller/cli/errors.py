"""How the command line says no: one sentence on standard error, and an exit code."""

from __future__ import annotations

from typing import IO, Any

import click

FAILED = 1
BAD_INPUT = 2


class Refused(click.ClickException):
    """Something asked for cannot be done as asked; nothing was started, or nothing is left of it."""

    exit_code = BAD_INPUT

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the sentence alone."""
        click.echo(f"thinwire: {self.message}", err=True, file=file)


class Failed(Refused):
    """It was tried, and did not work."""

    exit_code = FAILED
