"""Where the model is that benchmarks measure unless they are told another."""

from pathlib import Path

import thinwire


def in_box_model() -> str:
    """Return the in-box model's folder."""
    return str(Path(thinwire.__file__).parent / "runtime/bundled/emoji")
