"""`kubectl port-forward` as a child: a port of this machine that leads to a controller in a cluster.

kubectl knows every way to log in to a cluster, and forwards by whatever protocol its API server speaks. The line
through it is only a line: TLS and the token are between this program and the controller.
"""

from __future__ import annotations

import contextlib
import re
import select
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence

from thinwire.controller.cli.endpoint import AwayError
from thinwire.controller.cli.errors import Failed

_READY_SECONDS = 30.0
_STOP_SECONDS = 5.0
_FORWARDING = re.compile(rb"Forwarding from 127\.0\.0\.1:(\d+) -> ")


@contextlib.contextmanager
def forwarded(namespace: str, service: str, port: int, kubectl_options: Sequence[str] = ()) -> Iterator[int]:
    """Forward a free port of 127.0.0.1 to a port of a Service while the body runs; yields it.

    Raises Failed without kubectl, AwayError if it does not forward, with kubectl's own words.
    """
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise Failed(
            "expected kubectl on PATH to reach the cluster's controller, got none; install it, or say where the "
            "controller can be dialled: --address HOST:PORT --ca-file FILE --token-file FILE"
        )
    where = ["port-forward", "--namespace", namespace, "--address", "127.0.0.1", f"service/{service}", f":{port}"]
    command = [kubectl, *kubectl_options, *where]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as child:
        try:
            yield _port(child, f"{namespace}/{service}")
        finally:
            child.terminate()
            try:
                child.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()


def _port(child: subprocess.Popen[bytes], label: str) -> int:
    assert child.stdout is not None
    said, deadline = b"", time.monotonic() + _READY_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([child.stdout], [], [], left)[0]:
            continue
        more = child.stdout.read1(4096)  # type: ignore[attr-defined]
        said += more
        found = _FORWARDING.search(said)
        if found:
            return int(found[1])
        if not more:
            break
    last = (said.decode(errors="replace").strip().splitlines() or [f"nothing in {_READY_SECONDS:.0f} s"])[-1]
    raise AwayError(
        f"kubectl does not forward to the controller {label}: {last}; name the right one with --controller "
        "NAMESPACE/SERVICE, and ask for the right to `create pods/portforward` and `get services, pods` there"
    )
