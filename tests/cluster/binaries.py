"""The programs of the test cluster: kube-apiserver built from its Go module, etcd out of Debian's package.

`python -m tests.cluster.binaries` puts both into a cache folder that is named by what they are made of, so a second
call finds them. A folder of $KUBEBUILDER_ASSETS that has both is used instead. Nothing is installed on the machine.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
VERSION = "v1.34.4"
OLDEST_GO = (1, 24)
API_SERVER, ETCD = "kube-apiserver", "etcd"


class ToolMissingError(Exception):
    """A program can neither be found nor made; the message says what to install."""


@dataclass(frozen=True)
class Binaries:
    """Where the programs are."""

    folder: Path

    @property
    def api_server(self) -> Path:
        return self.folder / API_SERVER

    @property
    def etcd(self) -> Path:
        return self.folder / ETCD

    @property
    def whole(self) -> bool:
        return all(os.access(path, os.X_OK) for path in (self.api_server, self.etcd))


def found() -> Binaries:
    """The programs that are there already; raises ToolMissingError."""
    for binaries in (Binaries(folder) for folder in (_assets(), cache_folder()) if folder is not None):
        if binaries.whole:
            return binaries
    raise ToolMissingError(
        f"expected {API_SERVER} and {ETCD} in {cache_folder()}, got none; run `make cluster-tools`, or set "
        "KUBEBUILDER_ASSETS to a folder that has both"
    )


def made() -> Binaries:
    """The programs, after making what is missing; raises ToolMissingError."""
    assets = _assets()
    if assets is not None:
        binaries = Binaries(assets)
        if not binaries.whole:
            raise ToolMissingError(
                f"expected {API_SERVER} and {ETCD} in KUBEBUILDER_ASSETS={assets}, got a folder without one of them; "
                "complete it or unset the variable"
            )
        return binaries
    binaries = Binaries(cache_folder())
    binaries.folder.mkdir(parents=True, exist_ok=True)
    with _alone(binaries.folder):
        if not os.access(binaries.etcd, os.X_OK):
            _fetch_etcd(binaries.etcd)
        if not os.access(binaries.api_server, os.X_OK):
            _build_api_server(binaries.api_server)
    return binaries


def cache_folder() -> Path:
    """The folder for what go.mod and go.sum describe."""
    described = hashlib.sha256((HERE / "go.mod").read_bytes() + (HERE / "go.sum").read_bytes()).hexdigest()[:16]
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "thinwire" / f"cluster-{described}"


def _assets() -> Path | None:
    named = os.environ.get("KUBEBUILDER_ASSETS")
    return Path(named) if named else None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build_api_server(target: Path) -> None:
    go = _go()
    _say(f"building {API_SERVER} {VERSION} into {target.parent}: once, 5 to 10 minutes of two cores")
    major, minor = VERSION.removeprefix("v").split(".")[:2]
    version = "k8s.io/component-base/version"
    stamps = {"gitVersion": VERSION, "gitMajor": major, "gitMinor": minor}
    flags = " ".join(["-s", "-w", *(f"-X {version}.{name}={value}" for name, value in stamps.items())])
    unfinished = target.with_suffix(".unfinished")
    command = [go, "build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", str(unfinished)]
    # Packages are printed as they are compiled (about 1,500 of them): every hundredth is a sign of life.
    package = "k8s.io/kubernetes/cmd/kube-apiserver"
    with subprocess.Popen([*command, "-v", package], cwd=HERE, stderr=subprocess.PIPE, text=True) as build:
        assert build.stderr is not None
        said = _shown(build.stderr)
    if build.returncode:
        remedy = "the lines above say why; the modules come through GOPROXY"
        raise ToolMissingError(f"expected {API_SERVER} to build, got exit {build.returncode}; {remedy}\n{said}")
    unfinished.rename(target)


def _shown(lines: Iterator[str]) -> str:
    """Show progress; return the last lines for an error."""
    last: list[str] = []
    for count, line in enumerate(lines, 1):
        last = [*last, line][-20:]
        if count % 100 == 0:
            _say(f"  {count} packages, now {line.strip()}")
    return "".join(last)


def _go() -> str:
    go = shutil.which("go")
    wanted = f"Go {'.'.join(map(str, OLDEST_GO))} or newer"
    remedy = "install it from https://go.dev/dl and put its bin folder on PATH"
    if go is None:
        raise ToolMissingError(f"expected {wanted} to build {API_SERVER}, got no `go` on PATH; {remedy}")
    text = subprocess.run([go, "env", "GOVERSION"], cwd="/", capture_output=True, text=True, check=True).stdout.strip()
    numbers = re.match(r"go(\d+)\.(\d+)", text)
    if numbers is not None and tuple(map(int, numbers.groups())) < OLDEST_GO:
        raise ToolMissingError(f"expected {wanted} to build {API_SERVER}, got {text}; {remedy}")
    return go


def _fetch_etcd(target: Path) -> None:
    installed = shutil.which(ETCD)
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
    _say("taking etcd out of Debian's package etcd-server")
    with tempfile.TemporaryDirectory() as folder:
        if not _downloaded(apt, folder) and not (_updated(apt) and _downloaded(apt, folder)):
            raise ToolMissingError(
                "expected Debian's package etcd-server, got none from apt-get download; "
                "run `apt-get update` as root once, or install etcd-server"
            )
        (package,) = Path(folder).glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", str(package), f"{folder}/unpacked"], check=True)
        unfinished = target.with_suffix(".unfinished")
        shutil.copy2(f"{folder}/unpacked/usr/bin/etcd", unfinished)
        unfinished.rename(target)


def _downloaded(apt: str, folder: str) -> bool:
    command = [apt, "-o", "APT::Sandbox::User=root", "download", "-qq", "etcd-server"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode == 0 and any(Path(folder).glob("*.deb"))


def _updated(apt: str) -> bool:
    if os.geteuid() != 0:
        return False
    return subprocess.run([apt, "update", "-qq"], stdout=subprocess.DEVNULL, check=False).returncode == 0


def _say(text: str) -> None:
    print(text, flush=True)


def main() -> int:
    """Make what is missing and say where it is; 2 with a sentence if that cannot be done."""
    try:
        binaries = made()
    except ToolMissingError as error:
        sys.stderr.write(f"thinwire: {error}\n")
        return 2
    _say(f"{API_SERVER} and {ETCD} are in {binaries.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
