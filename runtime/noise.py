"""Schedulers that draw noise inside a step, when ranks share one picture's rows.

Every rank holds some rows and steps its scheduler on them alone, with a generator of the same seed: left alone, all
ranks draw the same noise and the picture repeats it, band by band. Here each draws the whole picture's noise, as one
process would, and keeps its own rows.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch

from thinwire.runtime.families.family import Family
from thinwire.runtime.parallel import World

_DRAW = "randn_tensor"
_ROWS = -2
"""Latents are [..., rows, columns], whatever stands before."""


def share_noise(scheduler: Any, world: World, family: Family) -> Callable[[], None]:
    """Have `scheduler` (of diffusers, or xfuser's wrapper of it) draw as one process; return what undoes that.

    Nothing is changed for a scheduler that never draws, or where ranks do not share rows.
    """
    origin = getattr(scheduler, "module", scheduler)
    module = sys.modules[type(origin).__module__]
    draw = getattr(module, _DRAW, None)
    if draw is None or world.degrees.sequence == 1 or not family.shares_rows:
        return _nothing
    parts, index = world.degrees.sequence, world.rank % world.degrees.sequence

    def draw_own_rows(shape: Any, *arguments: Any, **options: Any) -> torch.Tensor:
        whole = list(shape)
        whole[_ROWS] *= parts
        drawn: torch.Tensor = draw(tuple(whole), *arguments, **options)
        return drawn.chunk(parts, dim=_ROWS)[index]

    setattr(module, _DRAW, draw_own_rows)
    return lambda: setattr(module, _DRAW, draw)


def _nothing() -> None:
    return None
