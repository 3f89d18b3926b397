"""thinwire: diffusion models in parallel over links that are too thin for them."""

from importlib.metadata import version

__version__ = version("thinwire")
