"""Kernels: the eager reference, and the native one that writes the same bits faster."""

import structlog

from thinwire.compression.kernels.base import Kernel
from thinwire.compression.kernels.build import BuildError
from thinwire.compression.kernels.eager import EagerKernel
from thinwire.compression.kernels.native import load_native_kernel


def choose_kernel(prefer: str = "native") -> Kernel:
    """Return the kernel to use on this machine: `native` where it can be built, else the eager reference.

    The first call on a machine compiles for a few seconds; later ones load what is cached. Kernels write equal bits, so
    ranks need not choose alike, but should compare fingerprints. Raises ValueError for any other name.
    """
    if prefer not in ("native", "eager"):
        raise ValueError(f"kernel: expected native or eager, got {prefer!r}")
    if prefer == "eager":
        return EagerKernel()
    try:
        return load_native_kernel()
    except BuildError as error:
        structlog.get_logger().warning("native_kernel_unavailable", reason=str(error), instead="eager")
        return EagerKernel()
