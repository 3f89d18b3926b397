"""What the bases may take: first they are kept in int8, then layers are exchanged without codec until the rest fits.

Ring keeps a base for the whole sequence in every layer on every rank; that is gigabytes for a large model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from thinwire.compression import BaseFormat, Kernel, StreamEncoder, StreamId
from thinwire.runtime.errors import BadInputError
from thinwire.runtime.exchange.floors import ATTENTION
from thinwire.runtime.exchange.traffic import Flow

MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class BasePlan:
    """How bases are kept, which layers have none, and what that takes on every rank."""

    base_format: BaseFormat
    raw_layers: frozenset[int]
    base_bytes: int


def plan_bases(
    layer_bytes: Mapping[BaseFormat, int],
    layers: int,
    budget_bytes: int,
    other_bytes: Mapping[BaseFormat, int] | None = None,
) -> BasePlan:
    """Choose the format and the layers so that all bases fit; a budget of 0 is no limit.

    layer_bytes: what one layer's bases take in each format; other_bytes: those that belong to no layer and are always
    kept. Layers lose their bases from the middle outwards: errors there cost the picture most, so an exact exchange is
    worth most there.
    """
    full_extra, small_extra = ((other_bytes or {}).get(kept, 0) for kept in (BaseFormat.FULL, BaseFormat.INT8))
    full = layers * layer_bytes[BaseFormat.FULL] + full_extra
    if budget_bytes == 0 or full <= budget_bytes:
        return BasePlan(BaseFormat.FULL, frozenset(), full)
    small = layer_bytes[BaseFormat.INT8]
    kept = min(layers, max(0, budget_bytes - small_extra) // small) if small else layers
    by_distance = sorted(range(layers), key=lambda layer: abs(2 * layer - (layers - 1)))
    return BasePlan(BaseFormat.INT8, frozenset(by_distance[: layers - kept]), kept * small + small_extra)


def require_a_layer(
    plan: BasePlan,
    layers: int,
    layer_bytes: Mapping[BaseFormat, int],
    other_bytes: Mapping[BaseFormat, int],
    given: int,
) -> None:
    """Refuse a budget of `given` mebibytes under which no layer at all would be coded.

    Raises:
        BadInputError: naming the least that would do.
    """
    if not layers or len(plan.raw_layers) < layers:
        return
    least = layer_bytes[BaseFormat.INT8] + other_bytes.get(BaseFormat.INT8, 0)
    raise BadInputError(
        f"compression.baseMemoryMebibytes: expected at least {-(-least // MEBIBYTE)} for the bases of one layer, got "
        f"{given}; raise it, leave it out for no limit, or set compression.mode Off"
    )


def base_bytes(flows: Sequence[Flow], dtype: torch.dtype, order: int, kernel: Kernel) -> dict[BaseFormat, int]:
    """Return what bases and histories take on one rank, in each format, as the codec itself says.

    flows: one layer's, or those that belong to no layer.
    """
    return {
        base_format: sum(
            flow.streams
            * (1 if flow.exchange in ATTENTION else flow.times)
            * StreamEncoder(
                StreamId(flow.exchange, 0, flow.role, 0, 0),
                flow.rows,
                flow.channels,
                dtype,
                kernel=kernel,
                order=order,
                base_format=base_format,
            ).base_bytes
            for flow in flows
        )
        for base_format in BaseFormat
    }
