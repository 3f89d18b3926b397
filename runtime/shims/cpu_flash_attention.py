"""Ring attention needs the log-sum-exp of every chunk, and SDPA_FLASH, the backend that returns it, has no CPU kernel.

torch has one under another name, with the same first two results.
"""

# ruff: noqa: SLF001 - a shim is made of another package's private names

import torch

from thinwire.runtime.shims import accelerator, upstream


def needed() -> bool:
    """Return True where no GPU is there."""
    return accelerator.absent()


def apply() -> None:
    """Register the CPU kernel as SDPA_FLASH."""
    backend = upstream.module("xfuser.core.distributed.attention_backend")
    backend.ATTENTION_FUNCTION_REGISTRY[backend.AttentionBackendType.SDPA_FLASH] = _cpu_flash_attention


def _cpu_flash_attention(
    query_BHSD: torch.Tensor,
    key_BHSD: torch.Tensor,
    value_BHSD: torch.Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    attention_kwargs: dict[str, object] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    out_BHSD, log_sum_exp = kernel(query_BHSD, key_BHSD, value_BHSD, dropout_p=dropout_p, is_causal=is_causal)
    return out_BHSD, log_sum_exp
