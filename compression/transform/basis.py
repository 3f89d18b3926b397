"""A basis per head, in which residuals are coded and errors cost the same in every direction.

Calibration gives, per layer, role and head, C = the second moment of closed-loop residuals and M = what an error costs:
E[g g^T] over gradients g of the model's output with respect to the tensor. With M scaled to a mean eigenvalue of 1 over
all heads of the tensor, plus a small ridge, and V the eigenvectors of M^1/2 C M^1/2,

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
QUIETEST_HEAD = 1e-3
"""A head whose errors cost less than this share of the mean is taken to cost this much."""


@dataclass(frozen=True, slots=True)
class Basis:
    """forward, inverse: [heads, size, size] float32; codes: [heads x size] int16, usual amplitudes of components.

    channels = heads x size. tag: 16 bits by which both ends know that they hold the same basis; tensors must not be
    changed afterwards. Codes are quarter octaves (see amplitudes). Raises TensorError for other shapes, dtypes or
    values that are not finite.
    """

    forward: Tensor
    inverse: Tensor
    codes: Tensor
    tag: int = field(init=False)

    def __post_init__(self) -> None:
        heads, size = self.forward.shape[0], self.forward.shape[-1]
        expected = {"forward": (heads, size, size), "inverse": (heads, size, size), "codes": (heads * size,)}
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

    def of_heads(self, first: int, count: int) -> "Basis":
        """Return the basis of some heads that lie side by side; raises TensorError beyond the last head."""
        heads, size = self.forward.shape[:2]
        if not 0 <= first <= first + count <= heads:
            raise TensorError(f"basis, heads: expected some of {heads}, got {first} to {first + count}")
        chosen = slice(first, first + count)
        codes = self.codes[first * size : (first + count) * size]
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
        """y = r A, head by head: [rows, channels] float32 -> the same shape."""
        return _times(residual_RC, self.forward)

    def residual(self, components_RC: Tensor) -> Tensor:
        """r = y A^-1, head by head: [rows, channels] float32 -> the same shape."""
        return _times(components_RC, self.inverse)


def _times(x_RC: Tensor, matrices_HDD: Tensor) -> Tensor:
    """Multiply each head's slice by its matrix; the sum over the slice runs in order."""
    heads, size, _ = matrices_HDD.shape
    x_RHD = x_RC.reshape(x_RC.shape[0], heads, size)
    product_RHD = torch.zeros_like(x_RHD)
    for channel in range(size):
        product_RHD = product_RHD + x_RHD[:, :, channel, None] * matrices_HDD[:, channel]
    return product_RHD.reshape(x_RC.shape)


def basis_from_moments(residual_moment_HDD: Tensor, metric_HDD: Tensor) -> tuple[Tensor, Tensor]:
    """Return forward and inverse, [heads, size, size] float32, components with the most energy first.

    residual_moment: sums of r^T r per head, on any scale. metric: M per head, on any scale; symmetric, not negative.
    """
    size = metric_HDD.shape[-1]
    metric = metric_HDD.double()
    means_H = metric.diagonal(dim1=1, dim2=2).mean(dim=1)
    means_H = means_H / means_H.mean().clamp(min=torch.finfo(torch.float64).tiny)
    means_H = means_H.clamp(min=QUIETEST_HEAD)
    traces_H = metric.diagonal(dim1=1, dim2=2).mean(dim=1).clamp(min=torch.finfo(torch.float64).tiny)
    metric = metric / traces_H[:, None, None] + RIDGE * torch.eye(size, dtype=torch.float64)
    metric = metric * means_H[:, None, None]
    values, vectors = torch.linalg.eigh(metric)
    values = values.clamp(min=SMALLEST_EIGENVALUE)
    root = vectors @ torch.diag_embed(values.sqrt()) @ vectors.mT
    inverse_root = vectors @ torch.diag_embed(values.rsqrt()) @ vectors.mT
    _, ascending = torch.linalg.eigh(root @ residual_moment_HDD.double() @ root)
    rotation = ascending.flip(2)
    return (root @ rotation).float(), (rotation.mT @ inverse_root).float()
