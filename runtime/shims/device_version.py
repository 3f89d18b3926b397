"""`xfuser.config` asks `envs.get_device_version` while it is imported, and that raises on a machine without a GPU."""

from thinwire.runtime.shims import accelerator, envs_module


def needed() -> bool:
    """Return True where no GPU is there."""
    return accelerator.absent()


def apply() -> None:
    """Answer "no version", which xfuser reads as 0.0."""
    envs_module.load().get_device_version = _no_version


def _no_version() -> None:
    return None
