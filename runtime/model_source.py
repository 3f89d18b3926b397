"""Where this rank finds its model: a folder, a model that comes with the runtime, or a repository to download."""

from pathlib import Path

from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import HubModel, Model
from thinwire.runtime.errors import BadInputError

BUNDLED = Path(__file__).resolve().parent / "bundled"


def model_folder(model: Model) -> str:
    """Return the model's absolute folder, after downloading it if need be.

    Raises:
        BadInputError: there is no such model, or the hub does not give it.
    """
    if model.bundled:
        return str(_bundled(model.bundled))
    if model.HasField("hub"):
        return _downloaded(model.hub)
    return model.path


def _bundled(name: str) -> Path:
    if not (BUNDLED / name / "model_index.json").is_file():
        known = ", ".join(sorted(folder.name for folder in BUNDLED.iterdir() if folder.is_dir()))
        raise BadInputError(f"spec.model.source.bundled: expected one of {known}, got {name!r}; choose one of them")
    return BUNDLED / name


def _downloaded(hub: HubModel) -> str:
    """Fetch a snapshot; the hub's own client reads HF_TOKEN, HF_HOME and HF_ENDPOINT, and goes on where it stopped."""
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(hub.repo, revision=hub.revision or None)
    except Exception as error:
        said = " ".join(str(error).split())[:500] or type(error).__name__
        wanted = f"{hub.repo} at {hub.revision or 'its newest revision'}"
        raise BadInputError(
            f"spec.model.source.huggingFace: expected {wanted}, got: {said}; "
            "check repo, revision, tokenSecretRef and the way to the hub, or use a persistentVolumeClaim"
        ) from error
