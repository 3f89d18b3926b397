"""What is never coded coarsely, whatever the rate.

Keys, values, queries and outputs of attention are many and forgiving. The two guidance branches are the step itself,
multiplied by the guidance scale, and a few thousandths of the traffic: they travel in 8 bits at least.
"""

from thinwire.compression import INT8, Exchange, Rung

ATTENTION = frozenset({Exchange.RING, Exchange.ULYSSES_INPUT, Exchange.ULYSSES_OUTPUT})
"""Exchanges of one layer's attention."""

_FLOORS = {Exchange.GUIDANCE: INT8}


def at_least_floor(exchange: Exchange, rung: Rung) -> Rung:
    """Return what codes an exchange when `rung` is commanded."""
    floor = _FLOORS.get(exchange)
    return rung if floor is None or rung.millibits >= floor.millibits else floor
