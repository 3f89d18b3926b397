"""Local runs whose ranks are a script (fake_gang.py), with a real controller, guard and state folder."""

from __future__ import annotations

import sys
import time
import uuid
from pathlib import Path

from google.protobuf import json_format

from thinwire.controller.local import files
from thinwire.controller.local.files import RunFile, StateFolder
from thinwire.proto.thinwire.v1alpha1 import run_spec_pb2 as pb

GANG = Path(__file__).with_name("fake_gang.py")


def fake_run(output: Path, module: str, *, max_restarts: int = 0, deadline: int | None = None) -> RunFile:
    """A run of one fake rank that does `module`."""
    state = StateFolder(output)
    state.root.mkdir(parents=True, exist_ok=True)
    spec = pb.RunSpec(
        job_name="fake",
        namespace="default",
        output_dir=str(output),
        generation=pb.Generation(prompts=[pb.Prompt(name="one", prompt="one")], steps=28),
    )
    run = RunFile(
        run_id=uuid.uuid4().hex,
        namespace="default",
        name="fake",
        ranks=1,
        started_seconds=time.time(),
        first_attempt=max(state.attempts(), default=0) + 1,
        max_restarts=max_restarts,
        active_deadline_seconds=deadline,
        run_spec=json_format.MessageToDict(spec, preserving_proto_field_name=True),
        torchrun=[sys.executable, str(GANG)],
        rank_module=module,
    )
    files.write(state.run, run)
    return run
