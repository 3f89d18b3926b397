"""xfuser's live objects: its groups, and how it cuts a picture."""

import importlib
from typing import Any

from thinwire.runtime.exchange.pipeline import Patches


def guidance_coordinator() -> Any:
    """Return the group of the two guidance branches."""
    return _parallel_state().get_cfg_group()


def pipeline_coordinator() -> Any:
    """Return the group of PipeFusion's stages."""
    return _parallel_state().get_pp_group()


def process_groups() -> Any:
    """Return the groups of ring and Ulysses."""
    return importlib.import_module("yunchang.globals").PROCESS_GROUP


def usp() -> Any:
    """Return the module of the attention that all models share."""
    return importlib.import_module("xfuser.model_executor.layers.usp")


def warmup_steps() -> int:
    """Return for how many steps PipeFusion's stages go in step."""
    return int(_runtime_state().runtime_config.warmup_steps)


def patch_count() -> int:
    """Return into how many patches PipeFusion cuts a picture of the present size."""
    return int(_runtime_state().num_pipeline_patch)


def patches() -> Patches:
    """Return how this rank's part of a picture of the present size is cut."""
    state = _runtime_state()
    return Patches(tuple(state.pp_patches_height), tuple(state.pp_patches_token_num))


def _parallel_state() -> Any:
    return importlib.import_module("xfuser.core.distributed.parallel_state")


def _runtime_state() -> Any:
    return importlib.import_module("xfuser.core.distributed").get_runtime_state()
