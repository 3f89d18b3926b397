"""The calibration that a run uses: found beside the model or named, checked, and the same on every rank."""

from collections.abc import Collection
from operator import itemgetter
from pathlib import Path

import structlog
import torch.distributed as dist

from thinwire.compression import CALIBRATION_FILE, Calibration, CalibrationError, Role
from thinwire.runtime.errors import BadInputError
from thinwire.runtime.families.family import AttentionShape
from thinwire.runtime.fingerprint import model_fingerprint
from thinwire.runtime.parallel import World

ROLES = (Role.QUERY, Role.KEY, Role.VALUE, Role.OUTPUT)
_BRINGS = 'transform rungs, from 0.25 to 6 bits per value (docs/codec.md, "A calibrated model")'

log = structlog.get_logger(__name__)


def load_calibration(folder: Path, named: str, shape: AttentionShape) -> tuple[Calibration | None, str]:
    """Return the calibration of a model folder and "", or None and why there is none.

    named: a file that takes the place of the one beside the model; empty for none.
    Raises:
        BadInputError: the named file is missing, broken or another model's.
    """
    path = Path(named) if named else folder / CALIBRATION_FILE
    if not named and not path.exists():
        return None, "the model has no calibration"
    try:
        calibration = Calibration.load(path, model_fingerprint(folder))
        _require_places(path, calibration, shape)
    except CalibrationError as error:
        if named:
            raise BadInputError(str(error)) from error
        return None, str(error)
    return calibration, ""


def _require_places(path: Path, calibration: Calibration, shape: AttentionShape) -> None:
    for layer in range(shape.layers):
        for role in ROLES:
            bases = calibration.bases.get((layer, role), ())
            channels = {basis.channels for basis in bases}
            if channels != {shape.heads * shape.head_dim} or bases[-1].size != shape.head_dim:
                raise CalibrationError(
                    f"{path}: expected a basis of {shape.heads} heads of {shape.head_dim} for layer {layer}, "
                    f"{role.name}; calibrate this model"
                )


def agree_on_calibration(world: World, folder: Path, named: str, shape: AttentionShape) -> Calibration | None:
    """Return the calibration that every rank has, None where one of them has none or another. Collective.

    Raises:
        BadInputError: a named file cannot be used, on every rank alike.
    """
    calibration, refusal = None, ""
    try:
        calibration, why = load_calibration(folder, named, shape)
    except BadInputError as error:
        refusal = why = str(error)
    said: list[tuple[str, str, str]] = [("", "", "")] * world.size
    own = (identity_of(calibration) if calibration else "", refusal, why)
    dist.all_gather_object(said, own, group=world.control)
    refused = next((refusal for _, refusal, _ in said if refusal), "")
    if refused:
        raise BadInputError(refused)
    if len({identity for identity, _, _ in said}) > 1:
        calibration, why = None, "the ranks' calibration files differ; copy one to all of them"
    if world.rank == 0:
        if calibration is None:
            log.warning("calibration.none", why=why, would_bring=_BRINGS, remedy=f"thinwire calibrate {folder}")
        else:
            log.info("calibration.loaded", recipe=calibration.recipe, places=len(calibration.bases))
    return calibration


def identity_of(calibration: Calibration) -> str:
    """Return what differs wherever two calibrations would code differently."""
    parts: Collection[str] = [
        f"{layer}.{role}:{[basis.tag for basis in bases]}:{calibration.costs.get((layer, role))!r}"
        for (layer, role), bases in sorted(calibration.bases.items(), key=itemgetter(0))
    ]
    return ";".join(parts)
