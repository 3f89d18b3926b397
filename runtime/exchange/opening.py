"""Opening the exchange that a job asks for: coded, upstream's own, or upstream's own over an emulated link."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import structlog
import torch
import torch.distributed as dist

from thinwire.compression import (
    LADDER,
    BaseFormat,
    Calibration,
    Exchange,
    Kernel,
    Rung,
    RungCost,
    TransformRung,
    choose_kernel,
    measure_ladder,
)
from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import Compression, CompressionMode
from thinwire.runtime.exchange import paced_upstream, seams, upstream
from thinwire.runtime.exchange.bases import Bases
from thinwire.runtime.exchange.boundary import StepBoundary, groups_of
from thinwire.runtime.exchange.control import ExchangeState, Policy
from thinwire.runtime.exchange.courier import Courier
from thinwire.runtime.exchange.floors import ATTENTION
from thinwire.runtime.exchange.guidance import GuidanceExchange
from thinwire.runtime.exchange.meter import Operation, StepMeter
from thinwire.runtime.exchange.moment import Moment
from thinwire.runtime.exchange.pacing import Pacer
from thinwire.runtime.exchange.parcels import Parcels
from thinwire.runtime.exchange.pipeline import PipelineExchange
from thinwire.runtime.exchange.rates import TRANSFORMS, RateTable
from thinwire.runtime.exchange.streams import CodecPlan, Streams
from thinwire.runtime.exchange.traffic import Traffic
from thinwire.runtime.exchange.ulysses import UlyssesExchange
from thinwire.runtime.exchange.untouched import UntouchedSteps
from thinwire.runtime.exchange.wire import Wire
from thinwire.runtime.facts import RungFacts, StepHooks
from thinwire.runtime.memory import MEBIBYTE, base_bytes, plan_bases, require_a_layer
from thinwire.runtime.parallel import Degrees, PatchMode, World
from thinwire.runtime.steps import ModuleHooks, StageSteps, follow

_GATHERS = {
    Operation.RING: Exchange.RING,
    Operation.GATHER: Exchange.RING,
    Operation.DISTRIFUSION: Exchange.RING,
    Operation.GUIDANCE: Exchange.GUIDANCE,
}
"""Operations that give one frame to a whole group."""
_TIMED = (TRANSFORMS[0], TRANSFORMS[len(TRANSFORMS) // 2], TRANSFORMS[-1])

log = structlog.get_logger(__name__)


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


def open_exchange(setting: Setting, compression: Compression) -> OpenedExchange:
    """Open what `compression.mode` asks for. Collective."""
    if compression.mode == CompressionMode.COMPRESSION_MODE_OFF:
        # What varies from prompt to prompt cannot be counted from shapes beforehand.
        is_counted = setting.pacer.emulates or setting.traffic.varies
        ours = is_counted or setting.world.degrees.patch_mode is not PatchMode.NONE
        return _open_uncoded(setting, compression) if ours else _open_untouched(setting)
    return _open_coded(setting, compression)


def _open_untouched(setting: Setting) -> OpenedExchange:
    steps = UntouchedSteps(
        setting.world, setting.traffic, setting.values_of_all_ranks, setting.dtype.itemsize, setting.hooks
    )
    stage_steps, followed = _stage_steps(setting, steps)
    table = RateTable.of(setting.traffic, setting.dtype)
    return OpenedExchange(setting.world, steps, stage_steps, _ladder([], table), "none", 0, followed.remove)


def _open_uncoded(setting: Setting, compression: Compression) -> OpenedExchange:
    """Open upstream's own exchange, measured, and without codec what upstream does not have or cannot be paced in."""
    world, table = setting.world, RateTable.of(setting.traffic, setting.dtype)
    plan = CodecPlan(choose_kernel("eager"), 0, BaseFormat.FULL)
    off = table.millibits(None)
    boundary = _boundary(setting, Policy(table, 0, 0.0), plan, rate=off, listens=False)
    stage_steps, counted = _stage_steps(setting, boundary)
    parcels = _parcels(setting, boundary)
    ring = None
    if world.degrees.patch_mode is not PatchMode.NONE:
        ring = seams.ring_exchange(world, parcels, synchronous_steps(compression))
    exchanges = seams.Exchanges(ring=ring, pipeline=_pipeline(setting, parcels, stage_steps))
    installed = paced_upstream.install(world, parcels.wire, exchanges)
    followed = follow(setting.transformer, setting.attention_modules, boundary.moment, setting.first_layer)

    def close() -> None:
        for hooks in (counted, followed, installed):
            hooks.remove()
        exchanges.close()

    return OpenedExchange(world, boundary, stage_steps, _ladder([], table), "none", 0, close, exchanges)


def synchronous_steps(compression: Compression) -> int:
    """Return in how many steps of a prompt stages or patches wait for each other, before any is stale: at least one."""
    return max(1, compression.warmup_steps)


def _parcels(setting: Setting, boundary: StepBoundary) -> Parcels:
    wire = Wire(setting.world.device, setting.pacer, boundary.moment, boundary.meter)
    allocations = boundary.policy.table.allocations
    return Parcels(boundary.streams, boundary.moment, boundary.meter, wire, allocations)


def _stage_steps(setting: Setting, steps: Steps) -> tuple[StageSteps | None, ModuleHooks]:
    """Under PipeFusion, have forwards end the steps."""
    if setting.world.degrees.pipefusion == 1:
        return None, ModuleHooks()
    stage_steps = StageSteps(steps.end_step, upstream.warmup_steps, upstream.patch_count)
    hook = setting.transformer.register_forward_pre_hook(stage_steps.before_forward)
    return stage_steps, ModuleHooks([hook])


def _pipeline(setting: Setting, parcels: Parcels, stage_steps: StageSteps | None) -> PipelineExchange | None:
    if stage_steps is None:
        return None
    world, coordinator = setting.world, upstream.pipeline_coordinator()
    return PipelineExchange(
        coordinator=coordinator,
        parcels=parcels,
        courier=Courier(world.device),
        link_class=seams.neighbours_of(world)[Operation.PIPEFUSION].link_class,
        patches=upstream.patches,
        enter_step=stage_steps.enter,
        dtype=setting.dtype,
    )


def _open_coded(setting: Setting, compression: Compression) -> OpenedExchange:
    kernel = agree_on_kernel(setting.world)
    traffic, dtype, degrees = setting.traffic, setting.dtype, setting.world.degrees
    order = compression.predictor_order
    budget_bytes = compression.base_memory_mebibytes * MEBIBYTE
    of_a_layer = base_bytes(traffic.attention_flows, dtype, order, kernel)
    of_none = base_bytes(traffic.other_flows, dtype, order, kernel)
    bases = plan_bases(of_a_layer, traffic.layers, budget_bytes, of_none)
    require_a_layer(bases, traffic.layers, of_a_layer, of_none, compression.base_memory_mebibytes)
    calibrated = _bases_of(setting)
    raw_layers = frozenset(layer + setting.first_layer for layer in bases.raw_layers)
    in_step = synchronous_steps(compression)
    whole_steps = in_step if degrees.pipefusion > 1 else 0
    plan = CodecPlan(
        kernel,
        order,
        bases.base_format,
        raw_layers,
        bases=calibrated,
        whole_attention_steps=whole_steps,
        shapes_vary=traffic.varies,
    )
    policy = Policy(
        table=RateTable.of(traffic, dtype, setting.calibration),
        warmup_steps=_key_frame_steps(degrees, compression.warmup_steps, in_step),
        max_relative_error=compression.max_relative_error_milli / 1000,
    )
    # Also a fixed rate may be moved, by the job's owner.
    boundary = _boundary(setting, policy, plan, rate=compression.max_millibits, listens=True)
    stage_steps, counted = _stage_steps(setting, boundary)
    parcels = _parcels(setting, boundary)
    neighbours = seams.neighbours_of(setting.world)
    exchanges = seams.Exchanges(
        ring=seams.ring_exchange(setting.world, parcels, in_step),
        ulysses=UlyssesExchange(neighbours[Operation.ULYSSES], parcels) if degrees.ulysses > 1 else None,
        guidance=GuidanceExchange(neighbours[Operation.GUIDANCE], parcels) if degrees.cfg > 1 else None,
        pipeline=_pipeline(setting, parcels, stage_steps),
    )
    installed = seams.install(exchanges)
    followed = follow(setting.transformer, setting.attention_modules, boundary.moment, setting.first_layer)

    def close() -> None:
        for hooks in (counted, followed, installed):
            hooks.remove()
        exchanges.close()

    if setting.world.rank == 0:
        log.info(
            "exchange.planned",
            kernel=kernel.name,
            base_format=bases.base_format.name,
            base_bytes=bases.base_bytes,
            layers_without_bases=len(bases.raw_layers),
        )
    ladder = _ladder(_measure(traffic, dtype, kernel, calibrated), policy.table)
    return OpenedExchange(setting.world, boundary, stage_steps, ladder, kernel.name, bases.base_bytes, close, exchanges)


def _key_frame_steps(degrees: Degrees, warmup_steps: int, in_step: int) -> int:
    """Return how many steps of a prompt are key frames.

    Under PipeFusion attention's exchanges are first coded after the synchronous steps, and begin with a key frame too.
    """
    if degrees.pipefusion == 1:
        return warmup_steps
    return in_step + 1 if degrees.sequence > 1 else in_step


def _bases_of(setting: Setting) -> Bases | None:
    if setting.calibration is None:
        return None
    world = setting.world
    ulysses = seams.neighbours_of(world).get(Operation.ULYSSES)
    return Bases(setting.calibration, world.rank, ulysses.ranks if ulysses else (world.rank,), world.device)


def agree_on_kernel(world: World) -> Kernel:
    """Return a kernel that computes the same bits on every rank. Collective.

    Raises:
        RuntimeError: even the eager kernels differ, so the ranks' torch versions or processors do.
    """
    for prefer in ("native" if world.device.type == "cpu" else "triton", "eager"):
        kernel = choose_kernel(prefer)
        fingerprints: list[str] = [""] * world.size
        dist.all_gather_object(fingerprints, kernel.fingerprint, group=world.control)
        if len(set(fingerprints)) == 1:
            return kernel
        log.warning("exchange.kernels_differ", kernel=kernel.name, fingerprints=fingerprints)
    raise RuntimeError(
        f"expected the codec to compute the same bits on every rank, got fingerprints {fingerprints}: "
        "run the same torch on the same kind of processor, or set compression mode Off"
    )


def _boundary(setting: Setting, policy: Policy, plan: CodecPlan, *, rate: int, listens: bool) -> StepBoundary:
    world = setting.world
    own = seams.neighbours_of(world)
    return StepBoundary(
        world=world,
        policy=policy,
        state=ExchangeState(rates=dict.fromkeys(setting.traffic.link_classes, rate)),
        streams=Streams(plan, world.device),
        moment=Moment(),
        meter=StepMeter(),
        groups=groups_of(world, own),
        audiences={_GATHERS[operation]: group.ranks for operation, group in own.items() if operation in _GATHERS},
        most_transfers=setting.traffic.transfers_per_step,
        hooks=setting.hooks,
        listens=listens,
        lag=1 if world.degrees.pipefusion > 1 else 0,
        reads_later=1 if world.degrees.is_stale else 0,
    )


def _measure(traffic: Traffic, dtype: torch.dtype, kernel: Kernel, bases: Bases | None) -> list[RungCost]:
    """Time every rung on the shape that most values travel in; of the transform rungs three, and between them lines."""
    if not traffic.flows:
        return []
    flow = max(traffic.flows, key=lambda flow: flow.values)
    ladder: tuple[Rung, ...] = LADDER
    basis = None
    if bases is not None and flow.exchange in ATTENTION:
        basis = bases.example(flow.role)
        ladder = (*LADDER, *_TIMED)
    costs = list(measure_ladder(kernel, flow.rows, flow.channels, dtype, ladder=ladder, basis=basis))
    return costs if basis is None else [*costs, *_between(costs)]


def _between(costs: list[RungCost]) -> list[RungCost]:
    """Costs of the transform rungs that were not timed, from their timed neighbours."""
    timed = sorted((cost for cost in costs if isinstance(cost.rung, TransformRung)), key=lambda c: c.rung.millibits)
    made = []
    for rung in TRANSFORMS:
        for low, high in pairwise(timed):
            if low.rung.millibits < rung.millibits < high.rung.millibits:
                share = (rung.millibits - low.rung.millibits) / (high.rung.millibits - low.rung.millibits)
                seconds = (
                    (1 - share) * before + share * after
                    for before, after in (
                        (low.encode_seconds_per_value, high.encode_seconds_per_value),
                        (low.decode_seconds_per_value, high.decode_seconds_per_value),
                    )
                )
                made.append(RungCost(rung, rung.millibits, *seconds))
    return made


def _ladder(costs: list[RungCost], table: RateTable) -> tuple[RungFacts, ...]:
    by_rung = {cost.rung: cost for cost in costs}
    ladder = []
    for rung, millibits in table.choices:
        cost = None if rung is None else by_rung.get(rung)
        if rung is None:
            ladder.append(RungFacts("off", millibits, 0.0, 0.0, 0.0))
        elif cost is not None:
            encode, decode = cost.encode_seconds_per_value, cost.decode_seconds_per_value
            ladder.append(RungFacts(rung.name, millibits, encode, decode, rung.distortion))
    return tuple(ladder)
