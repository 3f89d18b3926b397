"""The pipeline group synchronises the CUDA device after it has exchanged shapes; without one that call raises."""

from thinwire.runtime.shims import accelerator, upstream


def needed() -> bool:
    """Return True where no GPU is there."""
    return accelerator.absent()


def apply() -> None:
    """Replace the module's `synchronize` by nothing: the CPU has no queue to wait for."""
    upstream.module("xfuser.core.distributed.group_coordinator").synchronize = _nothing


def _nothing() -> None:
    return None
