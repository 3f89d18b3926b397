"""What ranks need, imported once by the process that they are forked from (xfuser.md, "Time")."""

from diffusers import guiders
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from tests.harness import models, sessions
from thinwire.runtime import generate, reference
from thinwire.runtime.shims import import_xfuser

import_xfuser()
get_checkpoint_conversion_mapping("clip_text_model")  # builds a table of regular expressions, once

__all__ = ["generate", "guiders", "models", "reference", "sessions"]
