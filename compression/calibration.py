"""The calibration file: one safetensors file beside a model, with bases per (layer, role) and what each place costs.

    layer.<layer>.<role>.<size>.forward  [blocks, size, size] float32, or float16 where that holds it exactly
    layer.<layer>.<role>.<size>.inverse  likewise
    layer.<layer>.<role>.<size>.codes    [blocks x size] int16, usual amplitudes in quarter octaves
    layer.<layer>.<role>.costs           [5] float64, for the allocator: see Calibration; of all places or of none

A place has a basis for every size of block that its tensors may be cut into. Metadata: format (thinwire-calibration),
version (3), model (its fingerprint), recipe (how it was made).
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

FORMAT, VERSION = "thinwire-calibration", "3"
CALIBRATION_FILE = "calibration.safetensors"
"""Its name in a model folder."""


COST_MILLIBITS = (250, 500, 1_000, 2_000, 4_000)
"""The rates at which the cost of coding a place is measured."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """bases: by (layer, role), those of the widest blocks first. model: fingerprint of the model it was measured on.

    costs: by (layer, role), what coding it alone does to the picture at each of COST_MILLIBITS (energy of the change,
    on any common scale); of all places that have a basis, or of none: then every place gets the same rate.
    """

    model: str
    recipe: str
    bases: Mapping[Place, tuple[Basis, ...]]
    costs: Mapping[Place, tuple[float, ...]] = field(default_factory=dict)

    def basis(self, place: Place, first: int, count: int) -> Basis:
        """Return the basis of some channels of a place, in the widest blocks that they are whole ones of.

        Raises TensorError where they are cut otherwise, and KeyError for an unknown place.
        """
        bases = self.bases[place]
        fitting = (basis for basis in bases if first % basis.size == 0 and count % basis.size == 0)
        return next(fitting, bases[-1]).of_channels(first, count)

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
        for place, bases in self.bases.items():
            for basis in bases:
                prefix = f"{_prefix(place)}.{basis.size}"
                tensors[f"{prefix}.forward"] = _narrowest(basis.forward)
                tensors[f"{prefix}.inverse"] = _narrowest(basis.inverse)
                tensors[f"{prefix}.codes"] = basis.codes.contiguous()
            if self.costs:
                tensors[f"{_prefix(place)}.costs"] = torch.tensor(self.costs[place], dtype=torch.float64)
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
        sizes: dict[Place, list[int]] = {}
        for name in tensors:
            if name.endswith(".forward"):
                place, size = _place_and_size(path, name)
                sizes.setdefault(place, []).append(size)
        try:
            bases = {
                place: tuple(_basis(tensors, place, size) for size in sorted(found, reverse=True))
                for place, found in sizes.items()
            }
            measured = any(name.endswith(".costs") for name in tensors)
            costs = {place: _costs(tensors, place) for place in sizes} if measured else {}
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


def _place_and_size(path: Path, name: str) -> tuple[Place, int]:
    word, layer, role, size, _ = name.split(".") if name.count(".") == 4 else ("",) * 5
    if word != "layer" or not (layer.isdecimal() and size.isdecimal()) or role.upper() not in Role.__members__:
        raise CalibrationError(f"{path}: expected names like layer.0.key.64.forward, got {name}; calibrate again")
    return (int(layer), Role[role.upper()]), int(size)


def _prefix(place: Place) -> str:
    return f"layer.{place[0]}.{place[1].name.lower()}"


def _basis(tensors: Mapping[str, Tensor], place: Place, size: int) -> Basis:
    """Raises KeyError and TensorError unless it is whole and its blocks have this size."""
    prefix = f"{_prefix(place)}.{size}"
    forward, inverse, codes = (tensors[f"{prefix}.{part}"] for part in ("forward", "inverse", "codes"))
    basis = Basis(forward.float(), inverse.float(), codes)
    if basis.size != size:
        raise TensorError(f"{prefix}: expected blocks of {size} channels, got {basis.size}")
    return basis


def _costs(tensors: Mapping[str, Tensor], place: Place) -> tuple[float, ...]:
    """Raises TensorError unless there is a positive number for each rate."""
    costs = tensors[f"{_prefix(place)}.costs"]
    if costs.shape != (len(COST_MILLIBITS),) or not bool((costs > 0).all() and torch.isfinite(costs).all()):
        raise TensorError(f"{_prefix(place)}.costs: expected {len(COST_MILLIBITS)} positive numbers, got {costs}")
    return tuple(costs.double().tolist())


@dataclass(slots=True)
class BasisMeter:
    """Gathers what one (layer, role) shows over a few prompts, and makes bases of it.

    blocks, size: of its tensors, channels = blocks x size. Memory: two matrices a block, however many steps there are.
    """

    blocks: int
    size: int
    _residuals: Tensor = field(init=False)
    _gradients: Tensor = field(init=False)
    _loudness: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._residuals = torch.zeros(self.blocks, self.size, self.size, dtype=torch.float64)
        self._gradients = torch.zeros_like(self._residuals)

    def _moment(self, rows_RC: Tensor) -> Tensor:
        rows_BRD = rows_RC.double().reshape(-1, self.blocks, self.size).transpose(0, 1)
        return (rows_BRD.mT @ rows_BRD).cpu()

    def add(self, residual_RC: Tensor) -> None:
        """Take in one closed-loop residual, [rows, channels]; every step counts alike, loud or quiet."""
        moment_BDD = self._moment(residual_RC) / max(residual_RC.shape[0], 1)
        loudness = float(moment_BDD.diagonal(dim1=1, dim2=2).mean())
        if loudness > 0:
            self._residuals += moment_BDD / loudness
            self._loudness.append(loudness)

    def weigh(self, gradient_RC: Tensor) -> None:
        """Take in how the model's output answers to errors of this tensor: gradients, [rows, channels]."""
        self._gradients += self._moment(gradient_RC)

    def basis(self, size: int | None = None) -> Basis:
        """Return the basis in blocks of `size` channels, or of all that the meter's have; usual amplitudes are those
        of a step of median loudness.

        Without gradients an error costs the same in every direction. Raises ValueError before any `add` of a residual
        that is not zero, and for a size that the meter's blocks are no multiple of.
        """
        size = self.size if size is None else size
        if not 0 < size <= self.size or self.size % size:
            raise ValueError(f"basis, size: expected a divisor of {self.size}, got {size}")
        if not self._loudness:
            raise ValueError("basis: expected at least one residual that is not zero, got none")
        even_BDD = _diagonal_blocks(self._residuals, size) / len(self._loudness)
        alike = torch.eye(size, dtype=torch.float64).expand_as(even_BDD)
        weighed = bool(self._gradients.any())
        forward, inverse = basis_from_moments(even_BDD, _diagonal_blocks(self._gradients, size) if weighed else alike)
        energies_BD = (forward.double().mT @ even_BDD @ forward.double()).diagonal(dim1=1, dim2=2)
        loudness = sorted(self._loudness)[len(self._loudness) // 2]
        return Basis(forward, inverse, energy_codes((energies_BD * loudness).flatten().float()))


def _diagonal_blocks(matrices_BDD: Tensor, size: int) -> Tensor:
    """[blocks, D, D] -> [blocks x D / size, size, size]: what lies on the diagonals."""
    blocks, width, _ = matrices_BDD.shape
    cut = matrices_BDD.view(blocks, width // size, size, width // size, size)
    return cut.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2).reshape(-1, size, size)
