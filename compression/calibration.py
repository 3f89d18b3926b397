"""The calibration file: one safetensors file beside a model, with a basis and a sensitivity per (layer, role).

    layer.<layer>.<role>.forward      [heads, size, size] float32, or float16 where that holds it exactly
    layer.<layer>.<role>.inverse      likewise
    layer.<layer>.<role>.codes        [heads x size] int16, usual amplitudes in quarter octaves
    layer.<layer>.<role>.sensitivity  [] float32: what a unit of relative error costs, for the allocator

Metadata: format (thinwire-calibration), version (1), model (its fingerprint), recipe (how it was made).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from thinwire.compression.errors import CalibrationError, TensorError
from thinwire.compression.streams import Role
from thinwire.compression.transform.amplitudes import energy_codes
from thinwire.compression.transform.basis import Basis, basis_from_moments

FORMAT, VERSION = "thinwire-calibration", "1"
CALIBRATION_FILE = "calibration.safetensors"
"""Its name in a model folder."""
Place = tuple[int, Role]


@dataclass(frozen=True, slots=True)
class Calibration:
    """bases, sensitivities: by (layer, role). model: fingerprint of the model it was measured on."""

    model: str
    recipe: str
    bases: Mapping[Place, Basis]
    sensitivities: Mapping[Place, float]

    def save(self, path: Path) -> None:
        """Write the file, atomically."""
        tensors = {}
        for (layer, role), basis in self.bases.items():
            prefix = f"layer.{layer}.{role.name.lower()}"
            tensors[f"{prefix}.forward"] = _narrowest(basis.forward)
            tensors[f"{prefix}.inverse"] = _narrowest(basis.inverse)
            tensors[f"{prefix}.codes"] = basis.codes.contiguous()
            tensors[f"{prefix}.sensitivity"] = torch.tensor(self.sensitivities[layer, role], dtype=torch.float32)
        metadata = {"format": FORMAT, "version": VERSION, "model": self.model, "recipe": self.recipe}
        partial = path.with_name(f".{path.name}.partial")
        save_file(tensors, partial, metadata)
        partial.replace(path)

    @classmethod
    def load(cls, path: Path, model: str) -> "Calibration":
        """Read the file of the model with fingerprint `model`; raises CalibrationError for anything else."""
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no iterator of its own)
        except (OSError, SafetensorError) as error:
            raise CalibrationError(f"{path}: expected a safetensors file, got: {error}; calibrate again") from error
        for name, expected in (("format", FORMAT), ("version", VERSION), ("model", model)):
            if metadata.get(name) != expected:
                raise CalibrationError(
                    f"{path}, {name}: expected {expected}, got {metadata.get(name)}; calibrate this model"
                )
        places = [_place(path, name) for name in tensors if name.endswith(".forward")]
        try:
            parts = {place: _parts(tensors, place) for place in places}
            bases = {place: Basis(found[0].float(), found[1].float(), found[2]) for place, found in parts.items()}
        except (KeyError, TensorError) as error:
            raise CalibrationError(f"{path}: expected whole bases, got: {error}; calibrate again") from error
        sensitivities = {place: float(found[3]) for place, found in parts.items()}
        return cls(model, metadata.get("recipe", ""), bases, sensitivities)


def _narrowest(matrices: Tensor) -> Tensor:
    half = matrices.half()
    return half.contiguous() if torch.equal(half.float(), matrices) else matrices.contiguous()


def _place(path: Path, name: str) -> Place:
    word, layer, role, _ = name.split(".") if name.count(".") == 3 else ("", "", "", "")
    if word != "layer" or not layer.isdecimal() or role.upper() not in Role.__members__:
        raise CalibrationError(f"{path}: expected names like layer.0.key.forward, got {name}; calibrate again")
    return int(layer), Role[role.upper()]


def _parts(tensors: Mapping[str, Tensor], place: Place) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    prefix = f"layer.{place[0]}.{place[1].name.lower()}"
    forward, inverse, codes, sensitivity = (
        tensors[f"{prefix}.{part}"] for part in ("forward", "inverse", "codes", "sensitivity")
    )
    return forward, inverse, codes, sensitivity


@dataclass(slots=True)
class BasisMeter:
    """Gathers what one (layer, role) shows over a few prompts, and makes a basis of it.

    metric: [heads, size, size], what an error costs (see basis), on any scale.
    """

    metric: Tensor
    _moments: list[Tensor] = field(default_factory=list)

    def add(self, residual_RC: Tensor) -> None:
        """Take in one closed-loop residual, [rows, channels]."""
        heads, size, _ = self.metric.shape
        residual_HRD = residual_RC.double().view(-1, heads, size).transpose(0, 1)
        moment_HDD = residual_HRD.mT @ residual_HRD / max(residual_RC.shape[0], 1)
        if bool(moment_HDD.any()):
            self._moments.append(moment_HDD)

    def basis(self) -> Basis:
        """Return the basis; every step counts alike, loud or quiet, and usual amplitudes are those of the median step.

        Raises ValueError before any `add` of a residual that is not zero.
        """
        if not self._moments:
            raise ValueError("basis: expected at least one residual that is not zero, got none")
        even = [moment / moment.diagonal(dim1=1, dim2=2).mean() for moment in self._moments]
        forward, inverse = basis_from_moments(torch.stack(even).sum(dim=0), self.metric)
        energies = [
            (forward.double().mT @ moment @ forward.double()).diagonal(dim1=1, dim2=2) for moment in self._moments
        ]
        codes = torch.stack([energy_codes(energy.flatten().float()) for energy in energies])
        return Basis(forward, inverse, codes.median(dim=0).values)
