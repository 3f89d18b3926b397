"""gloo loses a message whose Work object is dropped, and PipeFusion's `pipeline_isend` drops it at once.

The (work, tensor) pairs are kept until the group's buffers are reset.
"""

# ruff: noqa: SLF001 - a shim is made of another package's private names

import torch

from thinwire.runtime.shims import accelerator, upstream

_MARK = "_thinwire_keeps_sends"


def needed() -> bool:
    """Return True where gloo carries the pipeline."""
    return accelerator.absent()


def apply() -> None:
    """Keep what `_pipeline_isend` started until `reset_buffer`."""
    group = upstream.module("xfuser.core.distributed.group_coordinator").PipelineGroupCoordinator
    if getattr(group, _MARK, False):
        return
    isend, reset_buffer = group._pipeline_isend, group.reset_buffer

    def keeping_isend(self: object, tensor: torch.Tensor) -> object:
        work = isend(self, tensor)
        self.__dict__.setdefault("_kept_sends", []).append((work, tensor))
        return work

    def forgetting_reset(self: object) -> None:
        self.__dict__.pop("_kept_sends", None)
        reset_buffer(self)

    group._pipeline_isend, group.reset_buffer = keeping_isend, forgetting_reset
    setattr(group, _MARK, True)
