"""Modules of other packages, as shims see them: things whose names can be replaced."""

import importlib
from typing import Any


def module(name: str) -> Any:
    """Import and return a module; raises ImportError."""
    return importlib.import_module(name)
