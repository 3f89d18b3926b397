"""What the bases may take: first they are kept in int8, then layers are exchanged without codec until the rest fits.

Ring keeps a base for the whole sequence in every layer on every rank; that is gigabytes for a large model.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from thinwire.compression import BaseFormat, Kernel, StreamEncoder, StreamId
from thinwire.runtime.exchange.traffic import Traffic

MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class BasePlan:
    """How bases are kept, which layers have none, and what that takes on every rank."""

    base_format: BaseFormat
    raw_layers: frozenset[int]
    base_bytes: int


def plan_bases(layer_bytes: Mapping[BaseFormat, int], layers: int, budget_bytes: int) -> BasePlan:
    """Choose the format and the layers so that all bases fit; a budget of 0 is no limit.

    layer_bytes: what one layer's bases take in each format. Layers lose their bases from the middle outwards: errors
    there cost the picture most, so an exact exchange is worth most there.
    """
    full = layers * layer_bytes[BaseFormat.FULL]
    if budget_bytes == 0 or full <= budget_bytes:
        return BasePlan(BaseFormat.FULL, frozenset(), full)
    small = layer_bytes[BaseFormat.INT8]
    kept = min(layers, budget_bytes // small)
    by_distance = sorted(range(layers), key=lambda layer: abs(2 * layer - (layers - 1)))
    return BasePlan(BaseFormat.INT8, frozenset(by_distance[: layers - kept]), kept * small)


def layer_base_bytes(traffic: Traffic, dtype: torch.dtype, order: int, kernel: Kernel) -> dict[BaseFormat, int]:
    """Return what one layer's bases and histories take on one rank, in each format, as the codec itself says."""
    return {
        base_format: sum(
            flow.streams
            * StreamEncoder(
                StreamId(flow.exchange, 0, flow.role, 0, 0),
                flow.rows,
                flow.channels,
                dtype,
                kernel=kernel,
                order=order,
                base_format=base_format,
            ).base_bytes
            for flow in traffic.flows
        )
        for base_format in BaseFormat
    }
