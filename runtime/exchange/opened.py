"""What an exchange is opened in, and what it is once it is open."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.distributed as dist

from thinwire.compression import Calibration
from thinwire.runtime.exchange import seams
from thinwire.runtime.exchange.pacing import Pacer
from thinwire.runtime.exchange.traffic import Traffic
from thinwire.runtime.facts import RungFacts, StepHooks
from thinwire.runtime.parallel import World
from thinwire.runtime.steps import StageSteps


class Steps(Protocol):
    """What begins prompts and ends steps; every rank calls it alike."""

    def begin_prompt(self, prompt: str, first_job_step: int) -> None:
        """Start a prompt."""

    def end_step(self) -> None:
        """End a step."""

    def end_prompt(self) -> None:
        """End a prompt, after its last step."""

    def rates(self) -> Mapping[str, int]:
        """Return what travels for one value now, in millibits, by link class."""


@dataclass(frozen=True, slots=True)
class OpenedExchange:
    """An exchange in its place; `close` takes it away again."""

    world: World
    steps: Steps
    stage_steps: StageSteps | None
    """Under PipeFusion: what ends the steps, in upstream's place."""
    ladder: tuple[RungFacts, ...]
    kernel_name: str
    base_bytes: int
    close: Callable[[], None]
    exchanges: seams.Exchanges = field(default_factory=seams.Exchanges)

    def end_prompt(self) -> None:
        """End a prompt: nothing of it is under way any more, on any rank."""
        self.exchanges.end_prompt()
        self.steps.end_prompt()
        if self.stage_steps is not None:
            # Upstream's last sends may still be under way, and a rank that leaves would take them along.
            dist.barrier(group=self.world.control)


@dataclass(frozen=True, slots=True)
class Setting:
    """What an exchange is opened in."""

    world: World
    traffic: Traffic
    """Of this rank; what it announces is of the rank that sends most."""
    values_of_all_ranks: int
    """That leave them in a step."""
    dtype: torch.dtype
    transformer: torch.nn.Module
    attention_modules: list[torch.nn.Module]
    pacer: Pacer
    hooks: StepHooks
    calibration: Calibration | None = None
    first_layer: int = 0
    """What the first of the attention modules counts as in the whole transformer."""
