"""Telling the exchange which layer and branch it serves: upstream passes neither, so hooks on the modules do.

A pre-hook on every attention module sets the layer; a pre-hook on the transformer counts the forwards of a step, which
are its guidance branches.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from thinwire.runtime.exchange.moment import Moment


@dataclass(slots=True)
class ModuleHooks:
    """The hooks, to be removed when the session closes."""

    handles: list[torch.utils.hooks.RemovableHandle] = field(default_factory=list)

    def remove(self) -> None:
        """Take every hook away."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()


def follow(transformer: torch.nn.Module, attention_modules: Sequence[torch.nn.Module], moment: Moment) -> ModuleHooks:
    """Keep `moment.layer` and `moment.branch` right while the transformer runs; a boundary starts branches again."""
    hooks = ModuleHooks([transformer.register_forward_pre_hook(lambda *_: _next_branch(moment))])
    for layer, module in enumerate(attention_modules):
        hooks.handles.append(module.register_forward_pre_hook(_layer_setter(moment, layer)))
    return hooks


def _next_branch(moment: Moment) -> None:
    moment.branch += 1
    if moment.step == 0 and moment.branch == 0:
        moment.step_started = time.perf_counter()


def _layer_setter(moment: Moment, layer: int) -> Any:
    def set_layer(*_: object) -> None:
        moment.layer = layer
        moment.inputs_seen = 0

    return set_layer
