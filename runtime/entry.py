"""What surrounds the work of a process that makes pictures: it dies with its parent, logs, and ends with a code."""

import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

import structlog

from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import RunSpec
from thinwire.runtime.errors import BadInputError
from thinwire.runtime.process import ExitCode, die_at_once_when_asked, die_with_parent, leave_last_word
from thinwire.runtime.spec import read_spec


def enter(work: Callable[[RunSpec, int], None]) -> NoReturn:
    """Do `work` with the RunSpec and this process's rank, and end the process with an `ExitCode`."""
    die_at_once_when_asked()
    die_with_parent()
    rank = int(os.environ.get("RANK", "0"))
    configure_log(rank)
    _leave(_attempt(work, rank))


def configure_log(rank: int) -> None:
    """Log to standard error, one `key=value` line per fact."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"], bool_as_flag=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )
    structlog.contextvars.bind_contextvars(rank=rank)


def _attempt(work: Callable[[RunSpec, int], None], rank: int) -> ExitCode:
    try:
        work(read_spec(os.environ), rank)
    except BadInputError as error:
        sentence = f"thinwire: {' '.join(str(error).split())}\n"
        sys.stderr.write(sentence)
        leave_last_word(os.environ, sentence)
        return ExitCode.BAD_INPUT
    except Exception:
        traceback.print_exc()
        return ExitCode.FAILED
    return ExitCode.DONE


def _leave(code: ExitCode) -> NoReturn:
    """End the process here and now.

    An ordinary exit takes torch's process groups apart, which waits for a peer that is stopped and, with peers in good
    health, takes seconds. Nothing is lost: pictures are synced, events written, the controller told, the group left.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
