"""Programs of the test cluster out of Debian's packages: installed where that is possible, named where not.

`python -m tests.cluster.debian` installs those of a node that are not there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.cluster.go_build import ToolMissingError

CNI_FOLDER = Path("/usr/lib/cni")

PACKAGES = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    str(CNI_FOLDER / "bridge"): "containernetworking-plugins",
    "ip": "iproute2",
    "tc": "iproute2",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "mmdebstrap": "mmdebstrap",
    "buildah": "buildah",
    "skopeo": "skopeo",
    "kubectl": "kubectl",
    "openssl": "openssl",
    "nsenter": "util-linux",
}
"""What a node needs beyond what is built: each program (or file) and its package."""


def missing() -> list[str]:
    """The packages of the programs that are not there."""
    return sorted({package for program, package in PACKAGES.items() if shutil.which(program) is None})


def require() -> None:
    """Raise ToolMissingError, with the command that helps, if a program of a node is not there."""
    if absent := missing():
        raise ToolMissingError(
            f"expected the programs of a Kubernetes node, got none of the packages {', '.join(absent)}; "
            f"run `make cluster-tools` as root, or install them (Debian: apt-get install {' '.join(absent)})"
        )


def install_missing() -> None:
    """Install the packages that are not there; raises ToolMissingError where that is not possible."""
    absent = missing()
    if not absent:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        require()
    print(f"installing Debian's {', '.join(absent)}", flush=True)
    if not _installed(absent) and _updated():
        _installed(absent)
    require()


def take_etcd(target: Path) -> None:
    """Put etcd at `target`: the one on PATH, or the one in Debian's package, which is not installed for it."""
    installed = shutil.which("etcd")
    if installed is not None:
        target.unlink(missing_ok=True)
        target.symlink_to(installed)
        return
    apt = shutil.which("apt-get")
    if apt is None or shutil.which("dpkg-deb") is None:
        raise ToolMissingError(
            "expected etcd on PATH, got none and no apt-get to fetch Debian's etcd-server with; "
            "install etcd 3.4 or newer with this system's package manager"
        )
    print("taking etcd out of Debian's package etcd-server", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        if not _downloaded(apt, folder) and not (_updated() and _downloaded(apt, folder)):
            raise ToolMissingError(
                "expected Debian's package etcd-server, got none from apt-get download; "
                "run `apt-get update` as root once, or install etcd-server"
            )
        (package,) = Path(folder).glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", str(package), f"{folder}/unpacked"], check=True)
        unfinished = target.with_suffix(".unfinished")
        shutil.copy2(f"{folder}/unpacked/usr/bin/etcd", unfinished)
        unfinished.rename(target)


def _installed(packages: list[str]) -> bool:
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(command, stdout=subprocess.DEVNULL, env=quiet, check=False).returncode == 0


def _downloaded(apt: str, folder: str) -> bool:
    command = [apt, "-o", "APT::Sandbox::User=root", "download", "-qq", "etcd-server"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode == 0 and any(Path(folder).glob("*.deb"))


def _updated() -> bool:
    if os.geteuid() != 0:
        return False
    return subprocess.run(["apt-get", "update", "-qq"], stdout=subprocess.DEVNULL, check=False).returncode == 0


if __name__ == "__main__":
    try:
        install_missing()
    except ToolMissingError as error:
        sys.exit(f"thinwire: {error}")
