"""xfuser imports triton without declaring or guarding it, in the mask kernels of one sparse attention.

Where triton cannot be installed, an empty module takes the place of those kernels; nothing that thinwire runs calls
them, and whoever does gets a sentence instead of an AttributeError.
"""

import importlib.util
import sys
from types import ModuleType
from typing import Never

_MODULE = "xfuser.core.sparge_attention.block_mask"


class _WithoutTriton(ModuleType):
    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(*_args: object, **_kwargs: object) -> Never:
            raise RuntimeError(f"expected triton for {_MODULE}.{name}, got none: install triton or another attention")

        return refuse


def needed() -> bool:
    """Return True where triton is not installed."""
    return importlib.util.find_spec("triton") is None


def apply() -> None:
    """Put the empty module where xfuser will look."""
    sys.modules.setdefault(_MODULE, _WithoutTriton(_MODULE))
