"""The calibration file: one safetensors file beside a model, with a basis and a sensitivity per (layer, role).

    layer.<layer>.<role>.forward      [heads, size, size] float32, or float16 where that holds it exactly
    layer.<layer>.<role>.inverse      likewise
    layer.<layer>.<role>.codes        [heads x size] int16, usual amplitudes in quarter octaves
    layer.<layer>.<role>.sensitivity  [] float32: what a unit of relative error costs, for the allocator

Metadata: format (thinwire-calibration), version (1), model (its fingerprint), recipe (how it was made).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from thinwire.compression.allocation import Demand, Place
from thinwire.compression.errors import CalibrationError, TensorError
from thinwire.compression.rungs.base import Rung
from thinwire.compression.rungs.transform import TransformRung
from thinwire.compression.streams import Role
from thinwire.compression.transform.amplitudes import energy_codes
from thinwire.compression.transform.basis import Basis, basis_from_moments

FORMAT, VERSION = "thinwire-calibration", "2"
CALIBRATION_FILE = "calibration.safetensors"
"""Its name in a model folder."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """bases, sensitivities: by (layer, role). model: fingerprint of the model it was measured on.

    A sensitivity is what a unit of component energy costs there.
    """

    model: str
    recipe: str
    bases: Mapping[Place, Basis]
    sensitivities: Mapping[Place, float]

    def demand(self, place: Place, values: int, ladder: Iterable[TransformRung]) -> Demand:
        """Return what the allocator must know of one (layer, role) with so many values per step."""
        layer, role = place
        left_over: dict[Rung, float] = {rung: rung.left_over(self.bases[place]) for rung in ladder}
        return Demand(layer, role, values, self.sensitivities[place], left_over)

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
    """Gathers what one (layer, role) shows over a few prompts, and makes a basis and a sensitivity of it.

    heads, size: of its tensors, channels = heads x size. Memory: two matrices per head, however many steps there are.
    """

    heads: int
    size: int
    _residuals: Tensor = field(init=False)
    _gradients: Tensor = field(init=False)
    _gradient_rows: int = 0
    _loudness: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._residuals = torch.zeros(self.heads, self.size, self.size, dtype=torch.float64)
        self._gradients = torch.zeros_like(self._residuals)

    def _moment(self, rows_RC: Tensor) -> Tensor:
        rows_HRD = rows_RC.double().reshape(-1, self.heads, self.size).transpose(0, 1)
        return (rows_HRD.mT @ rows_HRD).cpu()

    def add(self, residual_RC: Tensor) -> None:
        """Take in one closed-loop residual, [rows, channels]; every step counts alike, loud or quiet."""
        moment_HDD = self._moment(residual_RC) / max(residual_RC.shape[0], 1)
        loudness = float(moment_HDD.diagonal(dim1=1, dim2=2).mean())
        if loudness > 0:
            self._residuals += moment_HDD / loudness
            self._loudness.append(loudness)

    def weigh(self, gradient_RC: Tensor) -> None:
        """Take in how the model's output answers to errors of this tensor: gradients, [rows, channels]."""
        self._gradients += self._moment(gradient_RC)
        self._gradient_rows += gradient_RC.shape[0]

    @property
    def sensitivity(self) -> float:
        """What a unit of a component's energy costs, per token: the scale that the basis leaves out."""
        trace = float(self._gradients.diagonal(dim1=1, dim2=2).sum())
        return trace / max(self.heads * self.size * self._gradient_rows, 1)

    def basis(self) -> Basis:
        """Return the basis; usual amplitudes are those of a step of median loudness.

        Without gradients an error costs the same in every direction. Raises ValueError before any `add` of a residual
        that is not zero.
        """
        if not self._loudness:
            raise ValueError("basis: expected at least one residual that is not zero, got none")
        even_HDD = self._residuals / len(self._loudness)
        alike = torch.eye(self.size, dtype=torch.float64).repeat(self.heads, 1, 1)
        forward, inverse = basis_from_moments(even_HDD, self._gradients if bool(self._gradients.any()) else alike)
        energies_HD = (forward.double().mT @ even_HDD @ forward.double()).diagonal(dim1=1, dim2=2)
        loudness = sorted(self._loudness)[len(self._loudness) // 2]
        return Basis(forward, inverse, energy_codes((energies_HD * loudness).flatten().float()))
