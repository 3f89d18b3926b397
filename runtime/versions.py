"""Which versions made a picture."""

import platform
from collections.abc import Mapping
from importlib import metadata

_DISTRIBUTIONS = ("thinwire", "torch", "xfuser", "diffusers", "transformers")


def versions() -> Mapping[str, str]:
    """Return the versions of Python and of the packages that decide what a picture looks like."""
    found = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
