"""`envs.get_torch_distributed_backend` knows no backend for the CPU and raises; gloo is the one that torch has."""

from thinwire.runtime.shims import accelerator, envs_module


def needed() -> bool:
    """Return True where no GPU is there."""
    return accelerator.absent()


def apply() -> None:
    """Answer "gloo"."""
    envs_module.load().get_torch_distributed_backend = _gloo


def _gloo() -> str:
    return "gloo"
