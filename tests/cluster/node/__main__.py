"""`python -m tests.cluster.node`: a cluster to play with, until Ctrl-C; `--images`: only make its images, and end."""

from __future__ import annotations

import argparse
import signal
import sys
import time

from tests.cluster.binaries import ToolMissingError
from tests.cluster.node import images, volumes
from tests.cluster.node.cluster import Cluster, cluster, image_store
from tests.cluster.node.configuration import CONTROLLER, PLAIN
from tests.cluster.node.room import NodeError

_MANUAL = """
The cluster is up ({seconds:.0f} s). In another terminal:

    export KUBECONFIG={admin}
    export PATH={programs}:$PATH
    kubectl get nodes
    helm upgrade --install thinwire charts/thinwire --namespace thinwire-system --create-namespace \\
      --set controller.image.tag=dev --set runtime.image.tag=dev --wait
    kubectl apply -f examples/cluster/emoji-pictures.yaml -f examples/emoji.yaml
    kubectl get dj --watch

Pictures:       {volumes}/volume-*/emoji/images (until this ends)
Other users:    a person without rights       {plain}
                the controller's own account  {controller}
Logs:           {logs}/*.log
Inside the node: {room}

Ctrl-C ends it; nothing of it stays.
"""


def main() -> int:
    """Start, explain, wait; 2 with a sentence if that cannot be done."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.node", description=__doc__)
    parser.add_argument("--images", action="store_true", help="build the images, keep them, and end")
    parser.add_argument("--wait", action="store_true", help="wait for another test cluster of this machine to end")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    try:
        if asked.images:
            with image_store() as store:
                images.load(store)
            return 0
        with cluster(wait=asked.wait) as running:
            images.load(running.containerd)
            volumes.furnish(running)
            print(_manual(running, time.monotonic() - began), flush=True)
            _watch(running)
    except KeyboardInterrupt:
        print("ended", flush=True)
    except (NodeError, ToolMissingError) as error:
        sys.stderr.write(f"thinwire: {error}\n")
        return 2
    return 0


def _watch(running: Cluster) -> None:
    while True:
        time.sleep(1.0)
        for program in running.programs.values():
            program.check()


def _manual(running: Cluster, seconds: float) -> str:
    return _MANUAL.format(
        seconds=seconds,
        admin=running.kubeconfig(),
        plain=running.kubeconfig(PLAIN),
        controller=running.kubeconfig(CONTROLLER),
        programs=running.binaries.folder,
        volumes=running.files.volumes,
        logs=running.files.folder,
        room=" ".join(running.room.command("bash")),
    )


if __name__ == "__main__":
    sys.exit(main())
