"""Without a GPU `layers.usp` and `fp8_comms` set their PROCESS_GROUP to None instead of yunchang's."""

from thinwire.runtime.shims import accelerator, upstream


def needed() -> bool:
    """Return True where no GPU is there."""
    return accelerator.absent()


def apply() -> None:
    """Give both modules the groups that `initialize_model_parallel` fills."""
    groups = upstream.module("yunchang.globals").PROCESS_GROUP
    for name in ("xfuser.model_executor.layers.usp", "xfuser.core.distributed.fp8_comms"):
        upstream.module(name).PROCESS_GROUP = groups
