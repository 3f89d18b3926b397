"""PipeFusion's neighbours tell each other their shapes and wait for their own sends first.

gloo's sends complete only when the other side receives, so two neighbours that both send wait for ever. Here the sends
are posted and kept, and only the receive is waited for.
"""

# ruff: noqa: SLF001 - a shim is made of another package's private names

from typing import Any

import torch

from thinwire.runtime.shims import accelerator, upstream


def needed() -> bool:
    """Return True where gloo carries the pipeline."""
    return accelerator.absent()


def apply() -> None:
    """Replace `_communicate_shapes`."""
    group = upstream.module("xfuser.core.distributed.group_coordinator").PipelineGroupCoordinator
    group._communicate_shapes = _communicate_shapes


def _communicate_shapes(
    self: Any, tensor_send_to_next: torch.Tensor | None = None, recv_prev: bool = False
) -> torch.Size:
    if tensor_send_to_next is not None:
        dimensions = torch.tensor([tensor_send_to_next.dim()], dtype=torch.int64)
        shape = torch.tensor(tuple(tensor_send_to_next.shape), dtype=torch.int64)
        for message in (dimensions, shape):
            work = torch.distributed.isend(message, self.next_rank, group=self.device_group)
            self.__dict__.setdefault("_kept_sends", []).append((work, message))
    if not recv_prev:
        return torch.Size([0, 0, 0])
    dimensions = torch.empty(1, dtype=torch.int64)
    torch.distributed.recv(dimensions, self.prev_rank, group=self.device_group)
    shape = torch.empty(int(dimensions.item()), dtype=torch.int64)
    torch.distributed.recv(shape, self.prev_rank, group=self.device_group)
    return torch.Size(shape.tolist())
