"""Telling the exchange which layer and branch it serves: upstream passes neither, so hooks on the modules do.

A pre-hook on every attention module sets the layer; a pre-hook on the transformer counts the forwards of a step, which
are its guidance branches, or its patches under PipeFusion. There upstream says when a step is over to the last stage
alone, so forwards are counted for that too.
"""

import time
from collections.abc import Callable, Sequence
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


def follow(
    transformer: torch.nn.Module, attention_modules: Sequence[torch.nn.Module], moment: Moment, first_layer: int = 0
) -> ModuleHooks:
    """Keep `moment.layer` and `moment.branch` right while the transformer runs; a boundary starts branches again.

    first_layer: what the first of these modules counts as in the whole transformer.
    """
    hooks = ModuleHooks([transformer.register_forward_pre_hook(lambda *_: _next_branch(moment))])
    for layer, module in enumerate(attention_modules, first_layer):
        hooks.handles.append(module.register_forward_pre_hook(_layer_setter(moment, layer)))
    return hooks


@dataclass(slots=True)
class StageSteps:
    """Ends the steps of a rank under PipeFusion, from forwards and from what the stage before has sent.

    warmup_steps, patches: as upstream has them once the picture's size is known. A step has one forward in the warm-up
    and one for each patch after it.
    """

    end_step: Callable[[], None]
    warmup_steps: Callable[[], int]
    patches: Callable[[], int]
    forwards: int = 0
    step: int = 0

    def begin_prompt(self) -> None:
        """Start counting."""
        self.forwards = self.step = 0

    def enter(self, step: int) -> None:
        """End the steps before this one, if they have not ended yet."""
        while self.step < step:
            self.end_step()
            self.step += 1

    def before_forward(self, *_: object) -> None:
        """Enter the step that the next forward belongs to."""
        warmup_steps = self.warmup_steps()
        past = self.forwards - warmup_steps
        self.enter(self.forwards if past < 0 else warmup_steps + past // self.patches())
        self.forwards += 1


def _next_branch(moment: Moment) -> None:
    moment.branch += 1
    if moment.step == 0 and moment.branch == 0:
        moment.step_started = time.perf_counter()


def _layer_setter(moment: Moment, layer: int) -> Any:
    def set_layer(*_: object) -> None:
        moment.layer = layer
        moment.inputs_seen = 0

    return set_layer
