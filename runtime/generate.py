"""A session: ranks that have met, with a model between them, making pictures in rounds: one for each replica.

`Session.open` does everything that can be refused; `generate` is called by every rank for every round, and rank 0 gets
the pictures. The exchange is ours unless compression is off, and then upstream's own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import structlog
import torch
import torch.distributed as dist

from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import CompressionMode, Generation, Prompt, RunSpec
from thinwire.runtime.calibrated import agree_on_calibration
from thinwire.runtime.exchange.opened import OpenedExchange, Setting
from thinwire.runtime.exchange.opening import open_exchange
from thinwire.runtime.exchange.pacing import Pacer
from thinwire.runtime.exchange.seams import neighbours_of
from thinwire.runtime.exchange.traffic import Traffic, plan_traffic
from thinwire.runtime.facts import RunFacts, StepHooks
from thinwire.runtime.model import (
    LoadedModel,
    load_model,
    log_progress,
    parallelise,
    refuse_impossible_size,
    refuse_what_upstream_gets_wrong,
)
from thinwire.runtime.noise import share_noise
from thinwire.runtime.parallel import Degrees, Launch, World, open_world
from thinwire.runtime.picture import Made, Pixels, made_of, pixels_shape
from thinwire.runtime.reference import call_arguments
from thinwire.runtime.roll_call import answer_roll_calls, naming_lost_ranks
from thinwire.runtime.versions import versions

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Session:
    """See the module. Close it however it ends."""

    world: World
    model: LoadedModel
    pipeline: Any
    generation: Generation
    traffic: Traffic
    exchange: OpenedExchange
    unshare_noise: Callable[[], None]
    stop_answering: Callable[[], None]
    """Of roll calls."""
    link_is_emulated: bool

    @classmethod
    def open(cls, spec: RunSpec, hooks: StepHooks, launch: Launch | None = None) -> "Session":
        """Join the other ranks, load the model and put the exchange in its place. Collective.

        launch: what the launcher said; read from the environment where it is not given.

        Raises:
            BadInputError: the job asks for what cannot be done, in one sentence.
            LostRankError: a rank is gone or silent.
        """
        world = open_world(Degrees.from_spec(spec.parallelism), launch or Launch.from_environment())
        stop_answering = answer_roll_calls()
        try:
            with naming_lost_ranks():
                return cls._open_in(world, spec, hooks, stop_answering)
        except BaseException:
            stop_answering()
            world.close()
            raise

    @classmethod
    def _open_in(cls, world: World, spec: RunSpec, hooks: StepHooks, stop_answering: Callable[[], None]) -> "Session":
        generation = spec.generation
        model = load_model(spec.model, world.device, log_progress if world.rank == 0 else _silent, parallel=True)
        refuse_impossible_size(model, generation.height, generation.width)
        shape = model.attention_shape(generation)
        refuse_what_upstream_gets_wrong(shape, model.family, world.degrees)
        first_stage, last_stage = (
            plan_traffic(
                shape,
                world.degrees,
                {operation: neighbours.link_class for operation, neighbours in neighbours_of(world).items()},
                combines_inputs=model.family.combines_inputs,
                is_last_stage=is_last,
            )
            for is_last in (False, True)
        )
        stages = world.degrees.pipefusion
        values = (stages - 1) * first_stage.values_per_step + last_stage.values_per_step
        calibration = None
        if spec.compression.mode != CompressionMode.COMPRESSION_MODE_OFF:
            calibration = agree_on_calibration(world, Path(spec.model.path), spec.compression.calibration_path, shape)
        whole = model.family.attention_modules(model.pipeline.transformer)
        pipeline = parallelise(model, spec.model.path, world, max(1, spec.compression.warmup_steps))
        pacer = Pacer.from_spec(spec.emulated_link)
        transformer = model.pipeline.transformer
        attention_modules = model.family.attention_modules(transformer)
        setting = Setting(
            world=world,
            traffic=first_stage,
            values_of_all_ranks=values * world.size // stages,
            dtype=model.dtype,
            transformer=transformer,
            attention_modules=attention_modules,
            first_layer=_place(attention_modules[0], whole) if stages > 1 else 0,
            pacer=pacer,
            hooks=hooks,
            calibration=calibration,
        )
        exchange = open_exchange(setting, spec.compression)
        unshare_noise = share_noise(model.pipeline.scheduler, world, model.family)
        log.info("session.opened", rank=world.rank, world_size=world.size, device=str(world.device))
        return cls(
            world, model, pipeline, generation, first_stage, exchange, unshare_noise, stop_answering, pacer.emulates
        )

    def describe(self) -> RunFacts:
        """Return what is known of the run before its first step."""
        return RunFacts(
            world_size=self.world.size,
            ladder=self.exchange.ladder,
            traffic=self.traffic.facts(),
            rates=self.exchange.steps.rates(),
            kernel=self.exchange.kernel_name,
            base_memory_bytes=self.exchange.base_bytes,
            versions=versions(),
            link_is_emulated=self.link_is_emulated,
        )

    @property
    def replicas(self) -> int:
        """How many prompts are worked on at a time."""
        return self.world.degrees.data

    def generate(self, prompts: Sequence[Prompt], *, first_job_step: int) -> list[Made]:
        """Make a picture of each prompt, one a replica at most; rank 0 gets them, the others none. Collective."""
        return [
            made_of(pixels, self.generation) for pixels in self.generate_pixels(prompts, first_job_step=first_job_step)
        ]

    def generate_pixels(self, prompts: Sequence[Prompt], *, first_job_step: int) -> list[Pixels]:
        """Make a picture of each prompt as float32 [height, width, 3] in 0 to 1, as `generate` does. Collective.

        Raises:
            LostRankError: a rank is gone or silent; the message names it.
        """
        if not 0 < len(prompts) <= self.replicas:
            raise ValueError(f"expected 1 to {self.replicas} prompts, got {len(prompts)}: make them in rounds")
        replica = self.world.replica
        with naming_lost_ranks():
            if replica < len(prompts):
                pixels = self._generate(prompts[replica], first_job_step)
            else:
                self._stand_by(prompts[0], first_job_step)
                pixels = None
            return self._to_rank_0(pixels, len(prompts))

    def _generate(self, prompt: Prompt, first_job_step: int) -> Pixels | None:
        guidance_scale = self.generation.guidance_scale_milli / 1000
        text = self.model.encode(prompt.prompt, prompt.negative_prompt, guidance_scale)
        steps, stage_steps = self.exchange.steps, self.exchange.stage_steps
        steps.begin_prompt(prompt.name, first_job_step)

        if stage_steps is not None:
            stage_steps.begin_prompt()
        family = self.model.family
        output = self.pipeline(
            **text,
            **family.wrapper_arguments(guidance_scale),
            **call_arguments(self.generation, prompt),
            **family.step_arguments(steps.end_step if stage_steps is None else _nothing),
        )
        if stage_steps is not None:
            stage_steps.enter(self.generation.steps)
        self.exchange.end_prompt()
        return None if output is None else family.pixels_of(output)

    def _stand_by(self, prompt: Prompt, first_job_step: int) -> None:
        """Take part in the agreements of a round that has no prompt for this replica."""
        steps = self.exchange.steps
        steps.begin_prompt(prompt.name, first_job_step)
        for _ in range(self.generation.steps):
            steps.end_step()
        self.exchange.end_prompt()

    def close(self) -> None:
        """Give upstream its functions back and leave the process group."""
        self.exchange.close()
        self.unshare_noise()
        self.stop_answering()
        self.world.close()

    def _to_rank_0(self, pixels: Pixels | None, count: int) -> list[Pixels]:
        """Bring the pictures of the first `count` replicas from where upstream leaves them."""
        world, arrived = self.world, list[Pixels]()
        for replica in range(count):
            source = world.picture_rank(replica)
            if world.rank == source:
                assert pixels is not None
                if source != 0:
                    dist.send(torch.from_numpy(numpy.ascontiguousarray(pixels)), dst=0, group=world.control)
                else:
                    arrived.append(pixels)
            elif world.rank == 0:
                received = torch.empty(pixels_shape(self.generation), dtype=torch.float32)
                dist.recv(received, src=source, group=world.control)
                arrived.append(received.numpy())
        return arrived


def _place(module: torch.nn.Module, whole: Sequence[torch.nn.Module]) -> int:
    """Return which of the whole transformer's attention modules this one is, wrapped by xfuser or not."""
    return whole.index(getattr(module, "module", module))


def _nothing() -> None:
    """Let forwards end the steps: upstream would tell the last stage alone, after every patch."""


def _silent(component: str, number: int, total: int) -> None:
    """Let rank 0 alone speak of loading."""
