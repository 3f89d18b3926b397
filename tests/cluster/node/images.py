"""The project's own images, built from its Dockerfiles by buildah and put into the cluster's containerd.

Bases come out of Debian by mmdebstrap, so that no image registry is needed. Everything is kept by its content: a change
of the code rebuilds and imports one small layer, the five gigabytes below it stay where they are.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.binaries import NODE, cache_base, found
from tests.cluster.node.configuration import PAUSE_IMAGE
from tests.cluster.node.room import NodeError
from tests.cluster.node.store import Store
from tests.harness.programs import DIES_WITH_US

REPOSITORY = Path(__file__).resolve().parents[3]
CONTROLLER, RUNTIME = "thinwire-controller:dev", "thinwire-runtime:dev"
DOCKERFILES = {CONTROLLER: "controller/Dockerfile", RUNTIME: "runtime/Dockerfile"}

_SUITE = "bookworm"
_BASE_PACKAGES = "python3-minimal,python3-venv,ca-certificates,libgomp1"
_CERTIFICATES = Path("/etc/ssl/certs")
_MOUNTS_OF_ITS_OWN = (*DIES_WITH_US, "unshare", "--mount", "--propagation", "private", "--")


@dataclass(frozen=True)
class Workshop:
    """Where images are made: buildah's store, and a folder of blobs in OCI's layout that is filled from it."""

    folder: Path

    @property
    def layout(self) -> Path:
        return self.folder / "oci"

    def blob(self, digest: str) -> Path:
        return self.layout / "blobs" / digest.replace(":", "/")

    def buildah(self, *arguments: str | os.PathLike[str]) -> str:
        """Run buildah on this store; raises NodeError with the end of what it said."""
        with tempfile.TemporaryDirectory() as notes:
            options = ("--root", self.folder / "storage", "--runroot", notes, "--storage-driver", "overlay")
            return _run("buildah", *options, *arguments)

    def export(self, image: str) -> str:
        """Write an image's missing blobs into the layout, layers as they are; returns its manifest's digest."""
        with tempfile.TemporaryDirectory() as notes:
            digest = Path(notes) / "digest"
            source = f"containers-storage:[overlay@{self.folder / 'storage'}+{notes}]{image}"
            # buildah's own push would compress gigabytes, every time, to find that they are there already.
            options = ("--quiet", "--dest-oci-accept-uncompressed-layers", "--digestfile", digest)
            _run("skopeo", "--insecure-policy", "copy", *options, source, f"oci:{self.layout}:{image}")
            self._forget_old_blobs()
            return digest.read_text(encoding="utf-8").strip()

    def _forget_old_blobs(self) -> None:
        """Remove what no image of the layout is made of any more."""
        manifests = [one["digest"] for one in json.loads((self.layout / "index.json").read_bytes())["manifests"]]
        wanted = {self.blob(digest) for digest in manifests}
        for manifest in [json.loads(path.read_bytes()) for path in wanted]:
            wanted |= {self.blob(one["digest"]) for one in (manifest["config"], *manifest["layers"])}
        for path in (self.layout / "blobs" / "sha256").iterdir():
            if path not in wanted:
                path.unlink()


def _run(*command: str | os.PathLike[str]) -> str:
    """What a program prints. Its mounts are its own: one that is killed leaves the machine as it was."""
    environment = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
    done = subprocess.run([*_MOUNTS_OF_ITS_OWN, *command], capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-20:])
        raise NodeError(f"`{' '.join(map(str, command))}` ended with {done.returncode}:\n{said}")
    return done.stdout.strip()


def workshop() -> Workshop:
    """The one in the cache of the test cluster."""
    folder = cache_base() / "images"
    folder.mkdir(parents=True, exist_ok=True)
    return Workshop(folder)


def build(shop: Workshop, image: str) -> str:
    """Build one of the project's images, unchanged layers coming from the store; returns its name there."""
    name = f"localhost/{image}"
    print(f"building {image} from {DOCKERFILES[image]} (minutes the first time)", flush=True)
    mounts = [f"{_CERTIFICATES}:{_CERTIFICATES}:ro"]
    # A machine behind a certificate authority of its own says so to pip here; uv's cache saves downloads.
    if Path("/etc/pip.conf").exists():
        mounts.append("/etc/pip.conf:/etc/pip.conf:ro")
    uv_cache = Path(os.environ.get("UV_CACHE_DIR") or Path.home() / ".cache" / "uv")
    if uv_cache.is_dir():
        mounts.append(f"{uv_cache}:/root/.cache/uv")
    shop.buildah(
        *("bud", "--layers", "--quiet", "--build-arg", f"BASE_IMAGE={_base(shop)}"),
        *(word for mount in mounts for word in ("--volume", mount)),
        *("--file", REPOSITORY / DOCKERFILES[image], "--tag", name, REPOSITORY),
    )
    return name


def load(containerd: Store) -> None:
    """Build the project's images of this checkout and give them to containerd under their plain names."""
    shop = workshop()
    for image in DOCKERFILES:
        _import(containerd, shop, shop.export(build(shop, image)), f"docker.io/library/{image}")


def load_pause(containerd: Store) -> None:
    """Give containerd the image of the pods' sandboxes: one static program."""
    shop = workshop()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pause").write_bytes(found(NODE).path("pause").read_bytes())
        (folder / "pause").chmod(0o755)
        (folder / "Dockerfile").write_text('FROM scratch\nADD pause /pause\nENTRYPOINT ["/pause"]\n', encoding="utf-8")
        shop.buildah("bud", "--quiet", "--timestamp", "0", "--tag", PAUSE_IMAGE, folder)
    _import(containerd, shop, shop.export(PAUSE_IMAGE), PAUSE_IMAGE)


def _base(shop: Workshop) -> str:
    """The base image, which stands for the public python image where no registry can be reached."""
    described = hashlib.sha256(f"{_SUITE} {_BASE_PACKAGES}".encode()).hexdigest()[:12]
    name = f"localhost/thinwire-base:{described}"
    with contextlib.suppress(NodeError):
        shop.buildah("inspect", "--type", "image", name)
        return name
    print(f"making the images' base out of Debian {_SUITE} (20 s or more)", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        tar = Path(folder) / "base.tar"
        command = ["mmdebstrap", "--quiet", "--variant=apt", f"--include={_BASE_PACKAGES}", _SUITE, str(tar)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NodeError(f"`{' '.join(command)}` ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
        (Path(folder) / "Dockerfile").write_text("FROM scratch\nADD base.tar /\n", encoding="utf-8")
        shop.buildah("bud", "--quiet", "--tag", name, folder)
    return name


def _import(containerd: Store, shop: Workshop, digest: str, name: str) -> None:
    """Give containerd an image: only the blobs that it does not have travel, and are then shared with it."""
    manifest = json.loads(shop.blob(digest).read_bytes())
    blobs = [digest, manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])]
    with containerd.importing() as stream, tarfile.open(fileobj=stream, mode="w|") as archive:
        for blob in dict.fromkeys(blobs):
            if blob in (digest, blobs[1]) or not containerd.blob(blob).exists():
                archive.add(shop.blob(blob), f"blobs/{blob.replace(':', '/')}")
        _add(archive, "oci-layout", {"imageLayoutVersion": "1.0.0"})
        descriptor = {
            "mediaType": manifest.get("mediaType", "application/vnd.oci.image.manifest.v1+json"),
            "digest": digest,
            "size": shop.blob(digest).stat().st_size,
            "annotations": {"io.containerd.image.name": name},
        }
        _add(archive, "index.json", {"schemaVersion": 2, "manifests": [descriptor]})
    for blob in blobs:
        _share(containerd.blob(blob), shop.blob(blob))


def _add(archive: tarfile.TarFile, name: str, content: dict[str, object]) -> None:
    body = json.dumps(content).encode()
    entry = tarfile.TarInfo(name)
    entry.size = len(body)
    archive.addfile(entry, io.BytesIO(body))


def _share(held: Path, ours: Path) -> None:
    """Let our copy of a blob be containerd's (one file, two names), where the file system allows it."""
    if held.exists() and ours.exists() and held.stat().st_ino != ours.stat().st_ino:
        link = ours.with_suffix(".link")
        with contextlib.suppress(OSError):
            os.link(held, link)
            link.replace(ours)
