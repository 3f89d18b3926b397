"""SD3 under PipeFusion without sequence parallelism updates its key/value cache twice and crashes.

The attention processor updates it, and then USP does again. USP owns the cache only with sequence parallelism, so
`usp._has_kv_cache` answers True only there.
"""

# ruff: noqa: SLF001 - a shim is made of another package's private names

from thinwire.runtime.shims import upstream

_MARK = "_thinwire_only_with_sequence_parallelism"


def needed() -> bool:
    """Return True: the bug is upstream's own, whatever the machine."""
    return True


def apply() -> None:
    """Make `_has_kv_cache` ask for the sequence-parallel world size first."""
    usp = upstream.module("xfuser.model_executor.layers.usp")
    if getattr(usp, _MARK, False):
        return
    has_kv_cache = usp._has_kv_cache

    def has_kv_cache_of_usp(attention: object) -> bool:
        return usp.get_sequence_parallel_world_size() > 1 and bool(has_kv_cache(attention))

    usp._has_kv_cache = has_kv_cache_of_usp
    setattr(usp, _MARK, True)
