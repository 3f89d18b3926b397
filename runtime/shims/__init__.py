"""What xfuser 0.7.0 needs changed before it serves us: one module a blocker, each with its reason.

A shim is a module with `needed() -> bool` and `apply() -> None`, safe to apply twice. Those of `BEFORE_IMPORT` must run
before anything of xfuser is imported; those of `AFTER_IMPORT` patch modules of xfuser. On CUDA only upstream's own bugs
are patched; the rest makes xfuser run on a machine without an accelerator.
"""

import importlib
from types import ModuleType
from typing import Protocol, cast

from thinwire.runtime.shims import (
    cpu_flash_attention,
    cuda_build_without_gpu,
    device_synchronize,
    device_version,
    distributed_backend,
    long_context_attention,
    missing_triton,
    pipeline_keep_sends,
    pipeline_shape_deadlock,
    sd3_kv_cache_twice,
    sequence_process_groups,
    upstream_noise,
)


class Shim(Protocol):
    """One change to xfuser."""

    @staticmethod
    def needed() -> bool:
        """Whether this machine or installation has the blocker."""

    @staticmethod
    def apply() -> None:
        """Remove the blocker."""


BEFORE_IMPORT: tuple[ModuleType, ...] = (
    upstream_noise,
    cuda_build_without_gpu,
    missing_triton,
    device_version,
    distributed_backend,
    long_context_attention,
)
AFTER_IMPORT: tuple[ModuleType, ...] = (
    sequence_process_groups,
    device_synchronize,
    cpu_flash_attention,
    pipeline_keep_sends,
    pipeline_shape_deadlock,
    sd3_kv_cache_twice,
)


def import_xfuser() -> ModuleType:
    """Import xfuser with every shim that this machine needs; calling it again changes nothing.

    Returns the package. Raises ImportError where xfuser is not installed.
    """
    _apply(BEFORE_IMPORT)
    xfuser = importlib.import_module("xfuser")
    _apply(AFTER_IMPORT)
    return xfuser


def _apply(shims: tuple[ModuleType, ...]) -> None:
    for module in shims:
        shim = cast(Shim, module)
        if shim.needed():
            shim.apply()
