"""The element types a tensor may arrive in, with their numbers in the wire format."""

import torch

from thinwire.compression.errors import TensorError

_WIRE_IDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


def dtype_wire_id(dtype: torch.dtype) -> int:
    """Return the wire format's number of `dtype`; raises TensorError for anything but float32, bfloat16 and float16."""
    if dtype not in _WIRE_IDS:
        raise TensorError(f"dtype: expected float32, bfloat16 or float16, got {dtype}; convert the tensor first")
    return _WIRE_IDS[dtype]


def dtype_named(wire_id: int) -> str:
    """Return the name of a dtype by the wire format's number, or the number of one that there is not."""
    names = {number: str(dtype).removeprefix("torch.") for dtype, number in _WIRE_IDS.items()}
    return names.get(wire_id, f"number {wire_id}")


def dtype_bytes(dtype: torch.dtype) -> int:
    """Return the bytes of one element; raises TensorError as `dtype_wire_id` does."""
    return 4 if dtype_wire_id(dtype) == 0 else 2
