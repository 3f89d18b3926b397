"""`xfuser.envs`, loaded without running xfuser's own `__init__`, which would already ask it for a device.

A stand-in package with xfuser's path carries the import; the real package replaces it afterwards and finds `envs`,
`compat` and `logger` already loaded.
"""

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any


def load() -> Any:
    """Return `xfuser.envs`; raises ImportError with a remedy where xfuser is not installed."""
    loaded = sys.modules.get("xfuser.envs")
    if loaded is not None:
        return loaded
    spec = importlib.util.find_spec("xfuser")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("expected xfuser to be installed, got nothing: pip install 'thinwire[runtime]'")
    stand_in = ModuleType("xfuser")
    stand_in.__path__ = list(spec.submodule_search_locations)
    sys.modules["xfuser"] = stand_in
    try:
        return importlib.import_module("xfuser.envs")
    finally:
        del sys.modules["xfuser"]
