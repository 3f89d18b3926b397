"""The programs of the test cluster: Kubernetes, CoreDNS and Helm built from their Go modules, etcd out of Debian.

`python -m tests.cluster.binaries` puts them into a cache folder that is named by what they are made of, so a second
call finds them. `CONTROL_PLANE` is what most tests need, `NODE` what it takes to run pods. For the control plane, a
folder of $KUBEBUILDER_ASSETS that has both of its programs is used instead; nothing is installed on the machine for it.
A node also needs Debian's packages (debian.py).
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import debian
from tests.cluster.go_build import Module, ToolMissingError

__all__ = [
    "API_SERVER",
    "CONTROL_PLANE",
    "ETCD",
    "NODE",
    "Binaries",
    "ToolMissingError",
    "cache_folder",
    "found",
    "made",
]

HERE = Path(__file__).resolve().parent
VERSION = "v1.34.4"
API_SERVER, ETCD = "kube-apiserver", "etcd"
CONTROL_PLANE = (API_SERVER, ETCD)

_MAJOR, _MINOR, _ = VERSION.removeprefix("v").split(".")
_STAMP = "k8s.io/component-base/version"
KUBERNETES = Module(
    HERE,
    {
        API_SERVER: "k8s.io/kubernetes/cmd/kube-apiserver",
        "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
        "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
        "kube-proxy": "k8s.io/kubernetes/cmd/kube-proxy",
        "kubelet": "k8s.io/kubernetes/cmd/kubelet",
        "pause": "./pause",
    },
    # Without them the server calls itself v0.0.0, and charts that ask for a version refuse it.
    {f"{_STAMP}.gitVersion": VERSION, f"{_STAMP}.gitMajor": _MAJOR, f"{_STAMP}.gitMinor": _MINOR},
)
COREDNS = Module(HERE / "coredns", {"coredns": "github.com/coredns/coredns"})
HELM = Module(
    HERE / "helm",
    {"helm": "helm.sh/helm/v3/cmd/helm"},
    # Without them `helm template` takes the cluster for Kubernetes 1.20.
    {
        "helm.sh/helm/v3/internal/version.version": "v3.19.2",
        **{f"helm.sh/helm/v3/pkg/{one}.k8sVersionMajor": _MAJOR for one in ("chartutil", "lint/rules")},
        **{f"helm.sh/helm/v3/pkg/{one}.k8sVersionMinor": _MINOR for one in ("chartutil", "lint/rules")},
    },
)
HELM_DOCS = Module(HERE / "helm_docs", {"helm-docs": "github.com/norwoodj/helm-docs/cmd/helm-docs"})
MODULES = (KUBERNETES, COREDNS, HELM, HELM_DOCS)
CHART_TOOLS = ("helm", "helm-docs")
NODE = (ETCD, *KUBERNETES.packages, *COREDNS.packages, "helm")
WHOLE = (ETCD, *(program for module in MODULES for program in module.packages))


@dataclass(frozen=True)
class Binaries:
    """Where the programs are."""

    folder: Path

    @property
    def api_server(self) -> Path:
        return self.path(API_SERVER)

    @property
    def etcd(self) -> Path:
        return self.path(ETCD)

    def path(self, program: str) -> Path:
        return self.folder / program

    def has(self, programs: tuple[str, ...]) -> bool:
        return all(os.access(self.path(program), os.X_OK) for program in programs)


def found(programs: tuple[str, ...] = CONTROL_PLANE) -> Binaries:
    """The programs that are there already; raises ToolMissingError."""
    for binaries in (Binaries(folder) for folder in (_assets(), cache_folder()) if folder is not None):
        if binaries.has(programs):
            return binaries
    remedy = "run `make cluster-tools`"
    if programs == CONTROL_PLANE:
        remedy += ", or set KUBEBUILDER_ASSETS to a folder that has both"
    raise ToolMissingError(f"expected {' and '.join(programs)} in {cache_folder()}, got none; {remedy}")


def made(programs: tuple[str, ...] = CONTROL_PLANE) -> Binaries:
    """The programs, after making what is missing; raises ToolMissingError."""
    assets = _assets()
    if assets is not None and programs == CONTROL_PLANE:
        binaries = Binaries(assets)
        if not binaries.has(programs):
            raise ToolMissingError(
                f"expected {API_SERVER} and {ETCD} in KUBEBUILDER_ASSETS={assets}, got a folder without one of them; "
                "complete it or unset the variable"
            )
        return binaries
    binaries = Binaries(cache_folder())
    binaries.folder.mkdir(parents=True, exist_ok=True)
    with _alone(binaries.folder):
        if ETCD in programs and not binaries.has((ETCD,)):
            debian.take_etcd(binaries.etcd)
        missing = [program for program in programs if not binaries.has((program,))]
        for count, program in enumerate(missing, 1):
            (module,) = (one for one in MODULES if program in one.packages)
            _say(f"building {program} into {binaries.folder} ({count} of {len(missing)}; the first takes minutes)")
            module.build(program, binaries.path(program))
    return binaries


def cache_folder() -> Path:
    """The folder for what the modules describe: go.mod, go.sum, and what is written into the programs."""
    described = hashlib.sha256()
    for module in MODULES:
        described.update(repr((module.packages, module.variables)).encode())
        for name in ("go.mod", "go.sum"):
            described.update((module.folder / name).read_bytes())
    return cache_base() / f"cluster-{described.hexdigest()[:16]}"


def cache_base() -> Path:
    """Where everything that the test cluster keeps from run to run is."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "thinwire"


def _assets() -> Path | None:
    named = os.environ.get("KUBEBUILDER_ASSETS")
    return Path(named) if named else None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"waiting for another build into {folder}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _say(text: str) -> None:
    print(text, flush=True)


def main() -> int:
    """Make what is missing and say where it is; 2 with a sentence if that cannot be done."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.binaries", description=__doc__)
    parser.add_argument("--control-plane", action="store_true", help="only what the tests without a node need")
    parser.add_argument("--folder", action="store_true", help="only say where the programs are")
    asked = parser.parse_args()
    if asked.folder:
        _say(str(cache_folder()))
        return 0
    programs = CONTROL_PLANE if asked.control_plane else WHOLE
    try:
        if programs == WHOLE:
            debian.install_missing()
        binaries = made(programs)
    except ToolMissingError as error:
        sys.stderr.write(f"thinwire: {error}\n")
        return 2
    _say(f"{', '.join(programs)} are in {binaries.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
