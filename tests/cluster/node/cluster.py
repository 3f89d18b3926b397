"""A whole Kubernetes cluster of one node, for one test run or for somebody to play with.

API server, etcd, controller manager, scheduler, kubelet, kube-proxy, containerd and CoreDNS run as ordinary programs in
namespaces of their own (room.py), so that they and every pod end with the run however it ends. What is kept from run to
run is containerd's root, with the images in it; one cluster at a time may have it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kubernetes import client, config

from tests.cluster import debian
from tests.cluster.binaries import NODE, Binaries, cache_base, cache_folder, found
from tests.cluster.node import certificates, configuration, images
from tests.cluster.node.configuration import ADMIN, FIRST_SERVICE, NODE_NAME, Files
from tests.cluster.node.programs import Program
from tests.cluster.node.room import USUAL, NodeError, Place, Room, room, sweep
from tests.cluster.node.store import Store

READY_SECONDS = 180.0
"""Far more than the few seconds it takes: a busy machine must not fail a test."""

_LOCK_SECONDS = 1800.0
_CPU_SHARES = 128 * 1024


@dataclass(frozen=True)
class Cluster:
    """A running cluster: its programs by name, and ways to talk to it."""

    files: Files
    binaries: Binaries
    room: Room
    programs: dict[str, Program]
    store: Path

    def kubeconfig(self, user: str = ADMIN) -> Path:
        return self.files.kubeconfig(user)

    def api_client(self, user: str = ADMIN) -> client.ApiClient:
        """A client of its own, certificate checks on."""
        settings = client.Configuration()
        config.load_kube_config(str(self.kubeconfig(user)), client_configuration=settings)
        settings.no_proxy = self.files.place.node_address
        return client.ApiClient(settings)

    def kubectl(self, *arguments: str, user: str = ADMIN, text: str | None = None) -> str:
        """What kubectl prints; raises NodeError with its own words."""
        return self._call(["kubectl", "--kubeconfig", str(self.kubeconfig(user)), *arguments], text)

    def helm(self, *arguments: str, user: str = ADMIN) -> str:
        """What helm prints; raises NodeError with its own words."""
        return self._call([str(self.binaries.path("helm")), "--kubeconfig", str(self.kubeconfig(user)), *arguments])

    @property
    def containerd(self) -> Store:
        return Store(self.room, self.programs["containerd"], self.files.containerd_socket, self.store)

    def await_api(self) -> None:
        """Wait until the API server is ready to serve."""
        self._await("kube-apiserver", lambda: self._answers("get", "--raw", "/readyz"))

    def await_node(self) -> None:
        """Wait until pods can be started."""
        ready = '{.status.conditions[?(@.type=="Ready")].status}'
        self._await("kubelet", lambda: self._answers("get", "node", NODE_NAME, "-o", f"jsonpath={ready}") == "True")

    def _await(self, name: str, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not condition():
            for program in self.programs.values():
                program.check()
            if time.monotonic() > deadline:
                raise NodeError(f"{name} was not ready in {READY_SECONDS:.0f} s:\n{self.programs[name].last_words()}")
            time.sleep(0.1)

    def _answers(self, *arguments: str) -> str:
        try:
            return self.kubectl("--request-timeout=5s", *arguments).strip()
        except NodeError:
            return ""

    def _call(self, command: list[str], text: str | None = None) -> str:
        # kubectl and helm keep caches in $HOME: theirs end with the cluster.
        environment = {**os.environ, "HOME": str(self.files.folder / "home"), "NO_PROXY": self.files.place.node_address}
        done = subprocess.run(command, input=text or "", capture_output=True, text=True, env=environment, timeout=600)
        if done.returncode:
            raise NodeError(f"`{' '.join(command)}` ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout


@contextlib.contextmanager
def cluster(place: Place = USUAL, *, wait: bool = True) -> Iterator[Cluster]:
    """Start a cluster and wait until it takes pods; end it, and remove what it wrote, with the body.

    wait: whether to wait for another cluster at this place to end, or to raise NodeError at once.
    """
    with _furnished(found(NODE), place, wait) as made:
        _start(made)
        yield made


@contextlib.contextmanager
def image_store() -> Iterator[Store]:
    """The containerd of the tests' cluster alone, to give it images: no program that has to be built runs for it."""
    with _furnished(Binaries(cache_folder()), USUAL, wait=True) as made:
        made.programs["containerd"].start()
        made.containerd.clear()
        yield made.containerd


@contextlib.contextmanager
def _furnished(binaries: Binaries, place: Place, wait: bool) -> Iterator[Cluster]:
    """A cluster of which nothing runs yet: its room, files and programs."""
    debian.require()
    with (
        _alone(place, wait),
        tempfile.TemporaryDirectory(prefix=prefix(place), ignore_cleanup_errors=True) as name,
    ):
        folder, store = Path(name), _store(place)
        addresses = ["127.0.0.1", place.node_address, place.machine_address, FIRST_SERVICE]
        files = Files(folder, certificates.make(folder / "certificates", addresses), place)
        configuration.write(files, store)
        try:
            with room(folder / "room.log", place) as made:
                programs = {
                    name: Program(made, name, command, files.log(name))
                    for name, command in configuration.commands(files, binaries).items()
                }
                _prepare(made, files)
                yield Cluster(files, binaries, made, programs, store)
        finally:
            _sweep_cgroups(place)


def prefix(place: Place) -> str:
    """How the temporary folders of a place begin."""
    return f"thinwire-{place.name}-"


def _store(place: Place) -> Path:
    folder = cache_base() / f"containerd-{place.name}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _prepare(made: Room, files: Files) -> None:
    """Give the room its own /run, /var/log and /var/lib folders, so that nothing is written into the machine's."""
    made.call("mount", "-t", "tmpfs", "tmpfs", "/run")
    made.call("mkdir", "-p", "/run/thinwire", "/run/netns", "/run/lock")
    for target in ("/var/log", "/var/lib/cni", "/var/lib/kubelet"):
        own = files.folder / target.strip("/").replace("/", "-")
        own.mkdir()
        Path(target).mkdir(exist_ok=True)
        made.call("mount", "--bind", own, target)
    (files.folder / "home").mkdir()
    for controller in Path("/sys/fs/cgroup").iterdir():
        if (controller / "cgroup.procs").exists() and controller.name != "unified":
            (controller / files.place.cgroup).mkdir(exist_ok=True)
    # All pods together share one weight with every other process of the machine: without more of it they would starve.
    Path("/sys/fs/cgroup/cpu", files.place.cgroup, "cpu.shares").write_text(str(_CPU_SHARES), encoding="utf-8")


def _start(running: Cluster) -> None:
    programs = running.programs
    programs["containerd"].start()
    programs["etcd"].start()
    programs["kube-apiserver"].start()
    running.containerd.clear()
    images.load_pause(running.containerd)
    running.await_api()
    for name in ("kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "coredns"):
        programs[name].start()
    running.await_node()


@contextlib.contextmanager
def _alone(place: Place, wait: bool) -> Iterator[None]:
    """Hold the one place for a cluster on this machine, and sweep what a killed one left in it."""
    cache_base().mkdir(parents=True, exist_ok=True)
    with (cache_base() / f"{place.name}.lock").open("w") as lock:
        deadline = time.monotonic() + (_LOCK_SECONDS if wait else 0.0)
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise NodeError(
                        "expected no other test cluster on this machine, got one that runs; "
                        "end it first (`make cluster` in another terminal, or a test run)"
                    ) from None
                time.sleep(0.5)
        sweep(place)
        _sweep_cgroups(place)
        for left in Path(tempfile.gettempdir()).glob(f"{prefix(place)}*"):
            shutil.rmtree(left, ignore_errors=True)
        yield


def _sweep_cgroups(place: Place) -> None:
    """Remove the empty cgroups of pods, innermost first."""
    deadline = time.monotonic() + 10.0
    while (left := list(_cgroups(place))) and time.monotonic() < deadline:
        for folder in left:
            with contextlib.suppress(OSError):
                folder.rmdir()
        time.sleep(0.05)


def _cgroups(place: Place) -> Iterator[Path]:
    for top in Path("/sys/fs/cgroup").glob(f"*/{place.cgroup}"):
        for folder, _, _ in os.walk(top, topdown=False):
            yield Path(folder)
