"""What an exchange is coded with when a rung is commanded: not everything bears every rung.

Keys, values, queries and outputs of attention are many and forgiving, and so are the hidden states that PipeFusion's
stages hand on. The two guidance branches are the step itself, multiplied by the guidance scale, and the latents that
the last stage hands back are the picture: both are little and travel in 8 bits at least. And what is not attention's
has no calibrated basis: where a transform rung is commanded, a scalar one of no fewer bits codes it.
"""

from thinwire.compression import INT8, LADDER, Exchange, Role, Rung, TransformRung

ATTENTION = frozenset({Exchange.RING, Exchange.ULYSSES_INPUT, Exchange.ULYSSES_OUTPUT})
"""Exchanges of one layer's attention."""

_FLOORS = {(Exchange.GUIDANCE, Role.OUTPUT): INT8, (Exchange.PIPEFUSION, Role.OUTPUT): INT8}


def coded_with(exchange: Exchange, role: Role, commanded: Rung) -> Rung:
    """Return what codes a role of an exchange when a rung is commanded."""
    rung = commanded
    if exchange not in ATTENTION and isinstance(rung, TransformRung):
        rung = min((one for one in LADDER if one.millibits >= rung.millibits), key=lambda one: one.millibits)
    floor = _FLOORS.get((exchange, role))
    return rung if floor is None or rung.millibits >= floor.millibits else floor
