"""`python -m thinwire.controller MODE ...`: the controller as a process of its own, on one machine or for a cluster."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from pathlib import Path

import structlog

from thinwire.controller.kubernetes.settings import NoClusterError, add_flags, settings_of
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
    local.set_defaults(start=_local)
    cluster = modes.add_parser("cluster", help="look after the DiffusionJobs of a cluster")
    add_flags(cluster)
    cluster.set_defaults(start=_cluster)
    asked = parser.parse_args(arguments)
    try:
        return int(asked.start(asked))
    except (PortTakenError, FileNotFoundError, NoClusterError) as error:
        sys.stderr.write(f"thinwire: {error}\n")
        return BAD_INPUT


def _local(asked: argparse.Namespace) -> int:
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )
    asyncio.run(control(asked.output.resolve(), asked.owner, asked.port))
    return 0


def _cluster(asked: argparse.Namespace) -> int:
    # Here, not above: a local run needs no Kubernetes client, which takes a second to load.
    from thinwire.controller.kubernetes.main import configure_log
    from thinwire.controller.kubernetes.main import control as control_cluster

    configure_log()
    return asyncio.run(control_cluster(settings_of(asked)))


if __name__ == "__main__":
    sys.exit(main())
