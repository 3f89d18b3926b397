"""xfuser logs every wrapped layer, on every rank and to standard output; it also calls deprecated names of torch.

None of it is about the job. Its handler lets errors through and no more, and what it imports (transformers, diffusers)
starts at the same level unless the environment says otherwise.
"""

import logging
import os
import warnings

from thinwire.runtime.shims import envs_module

_LEVELS = {"TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error"}


def needed() -> bool:
    """Return True: it is upstream's own habit, whatever the machine."""
    return True


def apply() -> None:
    """Quieten the log and the warnings."""
    for variable, level in _LEVELS.items():
        os.environ.setdefault(variable, level)
    warnings.filterwarnings("ignore", message=".*is deprecated.*", category=FutureWarning, module="torch.distributed.*")
    envs_module.load()
    for handler in logging.getLogger("xfuser").handlers:
        handler.setLevel(logging.ERROR)
