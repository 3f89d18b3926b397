"""The calibration file: one safetensors file beside a model, with a basis per (layer, role) and what each costs.

    layer.<layer>.<role>.forward  [heads, size, size] float32, or float16 where that holds it exactly
    layer.<layer>.<role>.inverse  likewise
    layer.<layer>.<role>.codes    [heads x size] int16, usual amplitudes in quarter octaves
    layer.<layer>.<role>.costs    [5] float64, for the allocator: see Calibration; of all places or of none

Metadata: format (thinwire-calibration), version (2), model (its fingerprint), recipe (how it was made).
"""

import math
from bisect import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from thinwire.compression.allocation import Demand, Place
from thinwire.compression.errors import CalibrationError, TensorError
from thinwire.compression.rungs.base import Rung
from thinwire.compression.streams import Role
from thinwire.compression.transform.amplitudes import energy_codes
from thinwire.compression.transform.basis import Basis, basis_from_moments

FORMAT, VERSION = "thinwire-calibration", "2"
CALIBRATION_FILE = "calibration.safetensors"
"""Its name in a model folder."""


COST_MILLIBITS = (250, 500, 1_000, 2_000, 4_000)
"""The rates at which the cost of coding a place is measured."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """bases: by (layer, role). model: fingerprint of the model it was measured on.

    costs: by (layer, role), what coding it alone does to the picture at each of COST_MILLIBITS (energy of the change,
    on any common scale); of all places that have a basis, or of none: then every place gets the same rate.
    """

    model: str
    recipe: str
    bases: Mapping[Place, Basis]
    costs: Mapping[Place, tuple[float, ...]] = field(default_factory=dict)

    def demand(self, place: Place, values: int, ladder: Iterable[Rung]) -> Demand:
        """Return what the allocator must know of one (layer, role) with so many values per step."""
        layer, role = place
        if not self.costs:
            return Demand(layer, role, values)
        costs = self.costs[place]
        return Demand(layer, role, values, 1.0 / values, {rung: _cost_at(rung.millibits, costs) for rung in ladder})

    def save(self, path: Path) -> None:
        """Write the file, atomically."""
        tensors = {}
        for (layer, role), basis in self.bases.items():
            prefix = _prefix((layer, role))
            tensors[f"{prefix}.forward"] = _narrowest(basis.forward)
            tensors[f"{prefix}.inverse"] = _narrowest(basis.inverse)
            tensors[f"{prefix}.codes"] = basis.codes.contiguous()
            if self.costs:
                tensors[f"{prefix}.costs"] = torch.tensor(self.costs[layer, role], dtype=torch.float64)
        metadata = {"format": FORMAT, "version": VERSION, "model": self.model, "recipe": self.recipe}
        partial = path.with_name(f".{path.name}.partial")
        partial.write_bytes(save(tensors, metadata))  # save_file would make it the writer's alone to read
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
            bases = {place: _basis(tensors, place) for place in places}
            measured = any(name.endswith(".costs") for name in tensors)
            costs = {place: _costs(tensors, place) for place in places} if measured else {}
        except (KeyError, TensorError) as error:
            raise CalibrationError(f"{path}: expected whole bases, got: {error}; calibrate again") from error
        return cls(model, metadata.get("recipe", ""), bases, costs)


def _cost_at(millibits: int, costs: Sequence[float]) -> float:
    """Between two measured rates the logarithm of the cost falls on a line, beyond them on the line's continuation."""
    at = min(max(bisect(COST_MILLIBITS, millibits), 1), len(COST_MILLIBITS) - 1)
    low, high = COST_MILLIBITS[at - 1], COST_MILLIBITS[at]
    share = (millibits - low) / (high - low)
    return math.exp((1 - share) * math.log(costs[at - 1]) + share * math.log(costs[at]))


def _narrowest(matrices: Tensor) -> Tensor:
    half = matrices.half()
    return half.contiguous() if torch.equal(half.float(), matrices) else matrices.contiguous()


def _place(path: Path, name: str) -> Place:
    word, layer, role, _ = name.split(".") if name.count(".") == 3 else ("", "", "", "")
    if word != "layer" or not layer.isdecimal() or role.upper() not in Role.__members__:
        raise CalibrationError(f"{path}: expected names like layer.0.key.forward, got {name}; calibrate again")
    return int(layer), Role[role.upper()]


def _prefix(place: Place) -> str:
    return f"layer.{place[0]}.{place[1].name.lower()}"


def _basis(tensors: Mapping[str, Tensor], place: Place) -> Basis:
    forward, inverse, codes = (tensors[f"{_prefix(place)}.{part}"] for part in ("forward", "inverse", "codes"))
    return Basis(forward.float(), inverse.float(), codes)


def _costs(tensors: Mapping[str, Tensor], place: Place) -> tuple[float, ...]:
    """Raises TensorError unless there is a positive number for each rate."""
    costs = tensors[f"{_prefix(place)}.costs"]
    if costs.shape != (len(COST_MILLIBITS),) or not bool((costs > 0).all() and torch.isfinite(costs).all()):
        raise TensorError(f"{_prefix(place)}.costs: expected {len(COST_MILLIBITS)} positive numbers, got {costs}")
    return tuple(costs.double().tolist())


@dataclass(slots=True)
class BasisMeter:
    """Gathers what one (layer, role) shows over a few prompts, and makes a basis of it.

    heads, size: of its tensors, channels = heads x size. Memory: two matrices per head, however many steps there are.
    """

    heads: int
    size: int
    _residuals: Tensor = field(init=False)
    _gradients: Tensor = field(init=False)
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
