"""What the bases of residuals take on a rank: full width first, then int8, then layers go without.

The runtime plans with the same rules from the codec's own figures; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass

from thinwire.controller.planner.traffic import Flow, Traffic

MEBIBYTE = 1 << 20
_LANES = 16
_SUMS = 6


@dataclass(frozen=True, slots=True)
class BaseMemory:
    """How bases are kept, how many layers have none, and what that takes on one rank."""

    format: str
    layers_without: int
    base_bytes: int


def base_memory(traffic: Traffic, predictor_order: int, budget_bytes: int) -> BaseMemory:
    """Return what one rank keeps; a budget of 0 is no limit."""
    full, small = (_attention_bytes(traffic, predictor_order, small=small) for small in (False, True))
    fixed, fixed_small = (_other_bytes(traffic, predictor_order, small=small) for small in (False, True))
    if budget_bytes == 0 or full + fixed <= budget_bytes:
        return BaseMemory("full", 0, full + fixed)
    of_a_layer = small // traffic.layers
    kept = min(traffic.layers, max(0, budget_bytes - fixed_small) // of_a_layer) if of_a_layer else traffic.layers
    return BaseMemory("int8", traffic.layers - kept, kept * of_a_layer + fixed_small)


def least_memory(traffic: Traffic, predictor_order: int) -> int:
    """Return what one rank keeps when a single layer has bases."""
    of_a_layer = _attention_bytes(traffic, predictor_order, small=True) // traffic.layers
    return of_a_layer + _other_bytes(traffic, predictor_order, small=True)


def _attention_bytes(traffic: Traffic, order: int, *, small: bool) -> int:
    return sum(_flow_bytes(flow, order, small=small) for flow in traffic.flows if flow.of_attention)


def _other_bytes(traffic: Traffic, order: int, *, small: bool) -> int:
    return sum(_flow_bytes(flow, order, small=small) for flow in traffic.flows if not flow.of_attention)


def _flow_bytes(flow: Flow, order: int, *, small: bool) -> int:
    return flow.times * flow.streams * _stream_bytes(flow.rows, flow.channels, order, small=small)


def _stream_bytes(rows: int, channels: int, order: int, *, small: bool) -> int:
    """A base in float32 with deltas in bfloat16, or both in int8 with a scale per row; and the predictor's sums."""
    stride = -(-channels // _LANES) * _LANES
    plane = rows * stride
    base_bytes = plane + 4 * rows if small else 4 * plane
    delta_bytes = plane + 4 * rows if small else 2 * plane
    return base_bytes + order * delta_bytes + 4 * _SUMS * stride
