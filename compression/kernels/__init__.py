"""Kernels: the eager reference, and two that write the same bits faster: native on a CPU, Triton's on a CUDA device."""

import structlog
import torch

from thinwire.compression.kernels.base import Kernel
from thinwire.compression.kernels.build import BuildError
from thinwire.compression.kernels.eager import EagerKernel
from thinwire.compression.kernels.native import load_native_kernel


def choose_kernel(prefer: str = "native") -> Kernel:
    """Return the kernel to use on this machine: `native` or `triton` where it can be had, else the eager reference.

    native: C for tensors in CPU memory. triton: for tensors on a CUDA device. The first call on a machine compiles for
    a few seconds; later ones load what is cached. Kernels write equal bits, so ranks need not choose alike, but should
    compare fingerprints. Raises ValueError for any other name.
    """
    if prefer not in ("native", "triton", "eager"):
        raise ValueError(f"kernel: expected native, triton or eager, got {prefer!r}")
    if prefer == "eager":
        return EagerKernel()
    try:
        return load_native_kernel() if prefer == "native" else load_triton_kernel()
    except BuildError as error:
        structlog.get_logger().warning(f"{prefer}_kernel_unavailable", reason=str(error), instead="eager")
        return EagerKernel()


def load_triton_kernel() -> Kernel:
    """Compile the passes for this machine's CUDA device.

    Raises BuildError with the reason if that cannot be, or if they compute other bits than the reference there.
    """
    if not torch.cuda.is_available():
        raise BuildError("no CUDA device found")
    try:
        from thinwire.compression.kernels.triton import TritonKernel
    except ImportError as error:
        raise BuildError(f"triton cannot be imported: {error}; pip install triton") from error
    kernel = TritonKernel()
    expected, got = EagerKernel().fingerprint, kernel.fingerprint
    if expected != got:
        raise BuildError(f"the Triton kernel computes other bits than the reference ({got}, not {expected})")
    return kernel
