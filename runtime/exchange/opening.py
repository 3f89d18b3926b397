"""Opening the exchange that a job asks for: coded, upstream's own, or upstream's own over an emulated link."""

import structlog

from thinwire.compression import (
    BaseFormat,
    Exchange,
    choose_kernel,
)
from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import Compression, CompressionMode
from thinwire.runtime.exchange import paced_upstream, seams, upstream
from thinwire.runtime.exchange.bases import Bases
from thinwire.runtime.exchange.boundary import StepBoundary, groups_of
from thinwire.runtime.exchange.control import ExchangeState, Policy
from thinwire.runtime.exchange.costs import ladder_of, measured_costs
from thinwire.runtime.exchange.courier import Courier
from thinwire.runtime.exchange.guidance import GuidanceExchange
from thinwire.runtime.exchange.kernels import agree_on_kernel
from thinwire.runtime.exchange.meter import Operation, StepMeter
from thinwire.runtime.exchange.moment import Moment
from thinwire.runtime.exchange.opened import OpenedExchange, Setting, Steps
from thinwire.runtime.exchange.parcels import Parcels
from thinwire.runtime.exchange.pipeline import PipelineExchange
from thinwire.runtime.exchange.rates import RateTable
from thinwire.runtime.exchange.streams import CodecPlan, Streams
from thinwire.runtime.exchange.ulysses import UlyssesExchange
from thinwire.runtime.exchange.untouched import UntouchedSteps
from thinwire.runtime.exchange.wire import Wire
from thinwire.runtime.memory import MEBIBYTE, base_bytes, plan_bases, require_a_layer
from thinwire.runtime.parallel import Degrees, PatchMode
from thinwire.runtime.steps import ModuleHooks, StageSteps, follow

_GATHERS = {
    Operation.RING: Exchange.RING,
    Operation.GATHER: Exchange.RING,
    Operation.DISTRIFUSION: Exchange.RING,
    Operation.GUIDANCE: Exchange.GUIDANCE,
}
"""Operations that give one frame to a whole group."""

log = structlog.get_logger(__name__)


def open_exchange(setting: Setting, compression: Compression) -> OpenedExchange:
    """Open what `compression.mode` asks for. Collective."""
    if compression.mode == CompressionMode.COMPRESSION_MODE_OFF:
        patched = setting.world.degrees.patch_mode is not PatchMode.NONE
        # What varies from prompt to prompt cannot be counted from shapes beforehand.
        ours = setting.pacer.emulates or setting.traffic.varies or patched
        return _open_uncoded(setting, compression) if ours else _open_untouched(setting)
    return _open_coded(setting, compression)


def _open_untouched(setting: Setting) -> OpenedExchange:
    steps = UntouchedSteps(
        setting.world, setting.traffic, setting.values_of_all_ranks, setting.dtype.itemsize, setting.hooks
    )
    stage_steps, followed = _stage_steps(setting, steps)
    table = RateTable.of(setting.traffic, setting.dtype)
    return OpenedExchange(setting.world, steps, stage_steps, ladder_of([], table), "none", 0, followed.remove)


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

    return OpenedExchange(world, boundary, stage_steps, ladder_of([], table), "none", 0, close, exchanges)


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
        table=RateTable.of(traffic, dtype, setting.calibration, setting.first_layer),
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
    ladder = ladder_of(measured_costs(traffic, dtype, kernel, calibrated), policy.table)
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
