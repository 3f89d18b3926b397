"""Where a job's model is on this machine."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from thinwire.controller.manifest.job import BundledModel, ClaimModel, FolderModel, HubModel, ModelSource
from thinwire.controller.manifest.refusal import ManifestError, Refusal


def field_of(source: ModelSource) -> str:
    """Return the manifest's field that names the model."""
    names = {
        BundledModel: "bundled",
        FolderModel: "path",
        ClaimModel: "persistentVolumeClaim",
        HubModel: "huggingFace",
    }
    return f"spec.model.source.{names[type(source)]}"


def located(source: ModelSource) -> Path | None:
    """Return the model's folder on this machine, None where only a cluster has it; ManifestError if it is missing."""
    match source:
        case BundledModel(name):
            return _bundled(name)
        case FolderModel(path):
            folder = Path(path).absolute()
            if not folder.is_dir():
                got = "a file" if folder.exists() else "nothing there"
                raise _missing(source, f"a model folder at {folder}", got, "check the path")
            return folder
        case HubModel(repo, revision):
            return _cached(repo, revision)
    return None


def _missing(source: ModelSource, expected: str, got: str, remedy: str) -> ManifestError:
    return ManifestError([Refusal(field_of(source), expected, got, remedy)])


def _bundled(name: str) -> Path:
    package = find_spec("thinwire")
    places = package.submodule_search_locations if package else None
    root = Path(next(iter(places or ())), "runtime", "bundled")
    if not (root / name).is_dir():
        names = sorted(child.name for child in root.iterdir() if child.is_dir()) if root.is_dir() else []
        expected = f"one of {', '.join(names)}" if names else "a model that comes with thinwire"
        raise _missing(BundledModel(name), expected, f'"{name}"', "choose another or name a path")
    return root / name


def _cached(repo: str, revision: str) -> Path | None:
    """Return a snapshot that the hub's own client left on this machine, if there is one."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub") / f"models--{repo.replace('/', '--')}"
    reference = cache / "refs" / revision
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision
    snapshot = cache / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None
