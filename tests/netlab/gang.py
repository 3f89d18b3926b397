"""One attempt of a job in a lab: a torchrun on every node, as pods have it, and what became of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from tests.harness.programs import DIES_WITH_US
from tests.netlab.kernel import NetlabError
from tests.netlab.lab import INTERFACE, Lab
from thinwire.controller.local.launcher import RUN_SPEC_VARIABLE
from thinwire.controller.local.logs import TORCHRUN_LOG, Ending, read_ending
from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import RunSpec

_PORT = 29_500


@dataclass(slots=True)
class Gang:
    """Torchruns that die with this process; `close` ends those that are left."""

    spec: RunSpec
    folder: Path
    """Logs and the RunSpec go here."""
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @classmethod
    def start(
        cls,
        lab: Lab,
        spec: RunSpec,
        folder: Path,
        *,
        ranks_per_node: int = 1,
        environment: dict[str, str] | None = None,
    ) -> Gang:
        """Start the ranks of `spec` on the nodes of `lab`, node 0 first."""
        gang = cls(spec, folder)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "run_spec.json"
        file.write_text(json_format.MessageToJson(spec, preserving_proto_field_name=True))
        variables = dict(os.environ) | {
            RUN_SPEC_VARIABLE: str(file),
            "GLOO_SOCKET_IFNAME": INTERFACE,
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            **(environment or {}),
        }
        for node in range(lab.nodes):
            cores = _share(node, lab.nodes)
            log = gang.log(node)
            log.mkdir()
            with (log / TORCHRUN_LOG).open("ab") as said:
                gang.started.append(
                    subprocess.Popen(
                        [*DIES_WITH_US, "taskset", "--cpu-list", cores, *_command(lab, node, ranks_per_node, log)],
                        stdin=subprocess.DEVNULL,
                        stdout=said,
                        stderr=said,
                        env=variables,
                    )
                )
        return gang

    def log(self, node: int) -> Path:
        """Return the folder of what a node has said."""
        return self.folder / f"node{node}"

    @property
    def running(self) -> bool:
        """Whether every torchrun still runs."""
        return all(torchrun.poll() is None for torchrun in self.started)

    def wait(self, seconds: float) -> list[Ending]:
        """Return how each node ended; raises NetlabError for those that do not in time."""
        deadline = time.monotonic() + seconds
        for node, torchrun in enumerate(self.started):
            try:
                torchrun.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise NetlabError(
                    f"netlab: node {node} has not ended after {seconds:.0f} s; see {self.folder}"
                ) from None
        return [read_ending(self.log(node), torchrun.returncode) for node, torchrun in enumerate(self.started)]

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return the finished lines of one type in the job's event file."""
        path = Path(self.spec.output_dir) / "events.jsonl"
        if not path.exists():
            return []
        whole = path.read_text().rpartition("\n")[0]
        events = (json.loads(line) for line in whole.splitlines())
        return [event for event in events if event["type"] == kind]

    def close(self) -> None:
        """End what still runs."""
        for torchrun in self.started:
            torchrun.kill()
            torchrun.wait()


def _share(node: int, nodes: int) -> str:
    """Return the cores that a node may use: the ranks of a real one do not take threads from another's."""
    cores = sorted(os.sched_getaffinity(0))
    mine = cores[node::nodes] or [cores[node % len(cores)]]
    return ",".join(map(str, mine))


def _command(lab: Lab, node: int, ranks_per_node: int, log: Path) -> list[str]:
    return [
        *("ip", "netns", "exec", lab.namespace(node), sys.executable, "-m", "torch.distributed.run"),
        *("--nnodes", str(lab.nodes), "--node-rank", str(node), "--nproc-per-node", str(ranks_per_node)),
        *("--master-addr", lab.address(0), "--master-port", str(_PORT), "--local-addr", lab.address(node)),
        *("--max-restarts", "0", "--log-dir", str(log), "--redirects", "3", "--module", "thinwire.runtime"),
    ]
