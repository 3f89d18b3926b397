"""`torchrun -m thinwire.runtime`: one rank of the attempt that THINWIRE_RUN_SPEC describes."""

import os
from dataclasses import replace

from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import RunSpec
from thinwire.runtime.entry import enter
from thinwire.runtime.process import peer_timeout_seconds, tell_started


def work(spec: RunSpec, rank: int) -> None:
    """Make this rank's share of the pictures."""
    # Here, not above: a spec that cannot be read is refused before torch and xfuser take their seconds to load.
    from thinwire.runtime.collective import limit_waiting, tell
    from thinwire.runtime.facts import StepHooks
    from thinwire.runtime.generate import Session
    from thinwire.runtime.parallel import Launch
    from thinwire.runtime.run import run_attempt

    seconds = peer_timeout_seconds(os.environ)
    limit_waiting(seconds)
    launch = replace(Launch.from_environment(), timeout_seconds=seconds)

    def open_session(spec: RunSpec, hooks: StepHooks) -> Session:
        session = Session.open(spec, hooks, launch)
        tell_started(os.environ)
        return session

    run_attempt(spec, rank=rank, open_session=open_session, tell=tell)


if __name__ == "__main__":
    enter(work)
