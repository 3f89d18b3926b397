"""Steps of a run whose exchange is upstream's own: nothing is patched, agreed or measured inside a step."""

import time
from dataclasses import dataclass

from thinwire.runtime.exchange.traffic import Traffic
from thinwire.runtime.facts import StepFacts, StepHooks
from thinwire.runtime.parallel import World


@dataclass(slots=True)
class UntouchedSteps:
    """Counts steps and takes their time; bytes follow from shapes."""

    world: World
    traffic: Traffic
    values_of_all_ranks: int
    """That leave them in a step."""
    value_bytes: int
    hooks: StepHooks
    prompt: str = ""
    job_step: int = 0
    step: int = 0
    steps_done: int = 0
    step_started: float = 0.0

    def begin_prompt(self, prompt: str, first_job_step: int) -> None:
        """Start a prompt."""
        self.prompt, self.job_step, self.step = prompt, first_job_step, 0
        self.step_started = time.perf_counter()

    def end_step(self) -> None:
        """Tell rank 0's hooks about a step. Computing and exchanging cannot be told apart in it."""
        seconds = time.perf_counter() - self.step_started
        self.steps_done += 1
        if self.world.rank == 0:
            values = self.values_of_all_ranks * self.steps_done
            self.hooks.on_step(
                StepFacts(
                    job_step=self.job_step,
                    prompt=self.prompt,
                    step=self.step,
                    step_seconds=seconds,
                    compute_seconds=seconds,
                    max_relative_error=0.0,
                    epoch=0,
                    rates=self.rates(),
                    key_frame=False,
                    windows=(),
                    bytes_sent=values * self.value_bytes,
                    bytes_uncompressed=values * self.value_bytes,
                    bytes_uncompressed_fp16=2 * values,
                    bytes_counted=0,
                    frames_refused=0,
                    key_frames_forced=0,
                    base_mismatches=0,
                    base_memory_bytes=0,
                )
            )
        self.job_step += 1
        self.step += 1
        self.step_started = time.perf_counter()

    def end_prompt(self) -> None:
        """Do nothing: every step has been told of."""

    def rates(self) -> dict[str, int]:
        """Return whole values at the model's width, by link class."""
        return {str(link): self.value_bytes * 8_000 for link in self.traffic.link_classes}
