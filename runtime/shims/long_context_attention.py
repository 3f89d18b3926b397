"""Without a GPU `envs` says that yunchang's long-context attention is missing, and `config` then refuses any sequence
parallelism. The part of yunchang that is used, its process groups, works on the CPU.
"""

from thinwire.runtime.shims import accelerator, envs_module


def needed() -> bool:
    """Return True where no GPU is there."""
    return accelerator.absent()


def apply() -> None:
    """Say that long-context attention is there."""
    envs_module.load().PACKAGES_CHECKER.packages_info["has_long_ctx_attn"] = True
