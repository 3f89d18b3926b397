"""A basis per block of channels, in which residuals are coded and errors cost the same in every direction.

A block is one head or several side by side: the wider, the more of what channels have in common a basis finds, and the
longer are its products. Calibration gives, per layer, role and block, C = the second moment of closed-loop residuals
and M = what an error costs: E[g g^T] over gradients g of the model's output with respect to the tensor. With M scaled
to a mean eigenvalue of 1 over all blocks of the tensor, plus a small ridge, and V the eigenvectors of M^1/2 C M^1/2,

    components  y = r A,   A = M^1/2 V          residual  r = y A^-1 = y V^T M^-1/2

so that |y - y'|^2 is the cost of an error, and the components are uncorrelated: a Karhunen-Loeve transform in the
metric of the output. Products are sums in a fixed order (one float32 multiplication and one addition at a time).
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from thinwire.compression.checksums import crc32
from thinwire.compression.errors import TensorError

RIDGE = 0.01
SMALLEST_EIGENVALUE = 1e-6
SAMPLED_EVERY_ROWS = 8
QUIETEST_BLOCK = 1e-3
"""A block whose errors cost less than this share of the mean is taken to cost this much."""


@dataclass(frozen=True, slots=True)
class Basis:
    """forward, inverse: [blocks, size, size] float32; codes: [blocks x size] int16, usual amplitudes of components.

    channels = blocks x size. tag: 16 bits by which both ends know that they hold the same basis; tensors must not be
    changed afterwards. Codes are quarter octaves (see amplitudes). Raises TensorError for other shapes, dtypes or
    values that are not finite.
    """

    forward: Tensor
    inverse: Tensor
    codes: Tensor
    tag: int = field(init=False)

    def __post_init__(self) -> None:
        blocks, size = self.forward.shape[0], self.size
        expected = {"forward": (blocks, size, size), "inverse": (blocks, size, size), "codes": (blocks * size,)}
        for name, shape in expected.items():
            tensor = getattr(self, name)
            dtype = torch.int16 if name == "codes" else torch.float32
            if tuple(tensor.shape) != shape or tensor.dtype != dtype or not bool(torch.isfinite(tensor).all()):
                raise TensorError(
                    f"basis, {name}: expected finite {shape} of {dtype}, got {tuple(tensor.shape)} of {tensor.dtype}"
                )
        crc = crc32(self.codes, crc32(self.inverse, crc32(self.forward)))
        object.__setattr__(self, "tag", (crc ^ crc >> 16) & 0xFFFF)

    @property
    def channels(self) -> int:
        """Width of the tensors it is for."""
        return self.forward.shape[0] * self.forward.shape[2]

    @property
    def size(self) -> int:
        """Channels of a block."""
        return self.forward.shape[-1]

    def of_channels(self, first: int, count: int) -> "Basis":
        """Return the basis of `count` channels from `first` on; raises TensorError where they are no whole blocks."""
        end, size = first + count, self.size
        if not 0 <= first <= end <= self.channels or first % size or end % size:
            raise TensorError(
                f"basis, channels: expected blocks of {size} out of {self.channels}, got {first} to {end}"
            )
        chosen, codes = slice(first // size, end // size), self.codes[first:end]
        return Basis(self.forward[chosen].contiguous(), self.inverse[chosen].contiguous(), codes.contiguous())

    def on(self, device: torch.device) -> "Basis":
        """Return the same basis on a device."""
        return Basis(self.forward.to(device), self.inverse.to(device), self.codes.to(device))

    def in_half_precision(self) -> "Basis":
        """Return it with matrices that float16 holds exactly: a file of half the size, at no cost up to 10 bits."""
        return Basis(self.forward.half().float(), self.inverse.half().float(), self.codes)

    def relative_cost(self, lost_RC: Tensor, whole_RC: Tensor) -> float | None:
        """Return |lost A| / |whole A| for the components of an error and the tensor itself, [rows, channels] float32.

        Of the tensor every eighth row is looked at. None where these are zero.
        """
        sample_RC = whole_RC[::SAMPLED_EVERY_ROWS]
        whole = float(self.components(sample_RC).double().square().sum())
        if not whole > 0:
            return None
        lost = float(lost_RC.double().square().sum())
        return math.sqrt(lost / (whole * whole_RC.shape[0] / sample_RC.shape[0]))

    def components(self, residual_RC: Tensor) -> Tensor:
        """y = r A, block by block: [rows, channels] float32 -> the same shape."""
        return _times(residual_RC, self.forward)

    def residual(self, components_RC: Tensor) -> Tensor:
        """r = y A^-1, block by block: [rows, channels] float32 -> the same shape."""
        return _times(components_RC, self.inverse)


def _times(x_RC: Tensor, matrices_BDD: Tensor) -> Tensor:
    """Multiply each block's slice by its matrix; the sum over the slice runs in order."""
    blocks, size, _ = matrices_BDD.shape
    x_RBD = x_RC.reshape(x_RC.shape[0], blocks, size)
    product_RBD = torch.zeros_like(x_RBD)
    for channel in range(size):
        product_RBD = product_RBD + x_RBD[:, :, channel, None] * matrices_BDD[:, channel]
    return product_RBD.reshape(x_RC.shape)


def basis_from_moments(residual_moment_BDD: Tensor, metric_BDD: Tensor) -> tuple[Tensor, Tensor]:
    """Return forward and inverse, [blocks, size, size] float32, components with the most energy first.

    residual_moment: sums of r^T r per block, on any scale. metric: M per block, on any scale; symmetric, not negative.
    """
    size = metric_BDD.shape[-1]
    metric = metric_BDD.double()
    means_B = metric.diagonal(dim1=1, dim2=2).mean(dim=1)
    means_B = means_B / means_B.mean().clamp(min=torch.finfo(torch.float64).tiny)
    means_B = means_B.clamp(min=QUIETEST_BLOCK)
    traces_B = metric.diagonal(dim1=1, dim2=2).mean(dim=1).clamp(min=torch.finfo(torch.float64).tiny)
    metric = metric / traces_B[:, None, None] + RIDGE * torch.eye(size, dtype=torch.float64)
    metric = metric * means_B[:, None, None]
    values, vectors = torch.linalg.eigh(metric)
    values = values.clamp(min=SMALLEST_EIGENVALUE)
    root = vectors @ torch.diag_embed(values.sqrt()) @ vectors.mT
    inverse_root = vectors @ torch.diag_embed(values.rsqrt()) @ vectors.mT
    _, ascending = torch.linalg.eigh(root @ residual_moment_BDD.double() @ root)
    rotation = ascending.flip(2)
    return (root @ rotation).float(), (rotation.mT @ inverse_root).float()
