"""Stands in for torchrun and its ranks: takes torchrun's options, and does what `--module MODE:ARGUMENT` says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

CAUSE = """
Root Cause (first observed failure):
[0]:
  time      : 2026-01-01_00:00:00
  host      : localhost
  rank      : {rank} (local_rank: {rank})
  exitcode  : {code} (pid: 7) {signal}
  error_file: <N/A>
"""

STUBBORN_RANK = """
import os, pathlib, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
place = pathlib.Path(sys.argv[1])
partial = place.with_suffix(".partial")
partial.write_text(str(os.getpid()))
partial.rename(place)
signal.pause()
"""


def main() -> None:
    mode, _, argument = sys.argv[-1].partition(":")
    match mode:
        case "exit":
            sys.exit(int(argument))
        case "rank-exit":
            print(CAUSE.format(rank=1, code=argument, signal=""))
            sys.exit(1)
        case "tree":
            tree(argument)
        case "wait":
            announce(Path(argument))
            signal.pause()
        case "job":
            job(Path(argument))


def announce(place: Path) -> None:
    partial = place.with_suffix(".partial")
    partial.write_text(str(os.getpid()))
    partial.rename(place)


def tree(place: str) -> None:
    """A rank in a session of its own that ignores SIGTERM, as one hanging in a collective would."""
    child = subprocess.Popen([sys.executable, "-S", "-c", STUBBORN_RANK, place], start_new_session=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    child.wait()


def job(folder: Path) -> None:
    """Rank 0 of a job that steps until FOLDER/finish holds its exit code; FOLDER/steps holds the last step."""
    announce(folder / "pid")
    ended = threading.Event()
    threading.Thread(target=report, args=(folder, ended), daemon=True).start()
    finish = folder / "finish"
    while not finish.exists():
        time.sleep(0.01)
    code = int(finish.read_text())
    finish.unlink()
    ended.set()
    if code:
        log = Path(sys.argv[sys.argv.index("--log-dir") + 1]) / "x" / "attempt_0" / "0"
        log.mkdir(parents=True)
        (log / "stderr.log").write_text("Traceback\nRuntimeError: the fake broke\n" if code != 2 else "thinwire: no\n")
        print(CAUSE.format(rank=0, code=code, signal=""), flush=True)
        sys.exit(1)


def report(folder: Path, ended: threading.Event) -> None:
    sys.path.insert(0, str(Path(__file__).parents[3]))
    import grpc
    from google.protobuf import json_format

    from tests.controller.messages import hello, step
    from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import RunSpec
    from thinwire.proto.thinwire.v1alpha1.telemetry_pb2_grpc import TelemetryServiceStub

    spec = json_format.Parse(Path(os.environ["THINWIRE_RUN_SPEC"]).read_text(), RunSpec())
    sequence, number = 0, 0

    def requests():  # type: ignore[no-untyped-def]
        nonlocal sequence, number
        sequence += 1
        yield hello(sequence, job_name=spec.job_name, namespace=spec.namespace, attempt=spec.attempt, prompts_total=100)
        while not ended.is_set():
            sequence, number = sequence + 1, number + 1
            (folder / "steps").write_text(str(number))
            yield step(sequence, number, bytes_per_second=1e9)
            time.sleep(0.02)

    while not ended.is_set():
        with grpc.insecure_channel(spec.telemetry_address, options=[("grpc.enable_http_proxy", 0)]) as channel:
            try:
                list(TelemetryServiceStub(channel).Report(requests()))
            except grpc.RpcError:
                time.sleep(0.05)


main()
