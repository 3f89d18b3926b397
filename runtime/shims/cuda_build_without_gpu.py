"""xfuser takes `torch.version.cuda` for the presence of a GPU.

PyPI's torch is a CUDA build wherever it runs, so on a machine without a GPU `init_distributed_environment` would call
`torch.cuda.set_device` and die. Without a version xfuser falls back to the CPU.
"""

import torch

from thinwire.runtime.shims import accelerator


def needed() -> bool:
    """Return True where torch was built for CUDA and no GPU is there."""
    return accelerator.absent() and torch.version.cuda is not None


def apply() -> None:
    """Hide the CUDA version from xfuser."""
    torch.version.cuda = None
