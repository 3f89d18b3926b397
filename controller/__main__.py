"""`python -m thinwire.controller local ...`: the controller as a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from pathlib import Path

import structlog

from thinwire.controller.local.controller import control
from thinwire.controller.local.processes import Process
from thinwire.controller.server import PortTakenError

BAD_INPUT = 2


def main(arguments: list[str] | None = None) -> int:
    """Run until told to stop; 2 if it cannot start as asked."""
    parser = argparse.ArgumentParser(prog="python -m thinwire.controller", description=__doc__)
    modes = parser.add_subparsers(required=True)
    local = modes.add_parser("local", help="look after one job's processes on this machine")
    local.add_argument("--output", type=Path, required=True, help="output folder, with .thinwire/run.json")
    local.add_argument("--owner", type=Process.parse, required=True, help="PID:TICKS of the process to end with")
    local.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 takes a free one")
    asked = parser.parse_args(arguments)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )
    try:
        asyncio.run(control(asked.output.resolve(), asked.owner, asked.port))
    except (PortTakenError, FileNotFoundError) as error:
        sys.stderr.write(f"thinwire: {error}\n")
        return BAD_INPUT
    return 0


if __name__ == "__main__":
    sys.exit(main())
