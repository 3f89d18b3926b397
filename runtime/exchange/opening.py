"""Opening the exchange that a job asks for: coded, upstream's own, or upstream's own over an emulated link."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
from thinwire.runtime.exchange import paced_upstream, seams
from thinwire.runtime.exchange.bases import Bases
from thinwire.runtime.exchange.boundary import StepBoundary, groups_of
from thinwire.runtime.exchange.control import ExchangeState, Policy
from thinwire.runtime.exchange.floors import ATTENTION
from thinwire.runtime.exchange.meter import Operation, StepMeter
from thinwire.runtime.exchange.moment import Moment
from thinwire.runtime.exchange.pacing import Pacer
from thinwire.runtime.exchange.parcels import Parcels
from thinwire.runtime.exchange.rates import TRANSFORMS, RateTable
from thinwire.runtime.exchange.streams import CodecPlan, Streams
from thinwire.runtime.exchange.traffic import Traffic
from thinwire.runtime.exchange.untouched import UntouchedSteps
from thinwire.runtime.exchange.wire import Wire
from thinwire.runtime.facts import RungFacts, StepHooks
from thinwire.runtime.memory import MEBIBYTE, base_bytes, plan_bases, require_a_layer
from thinwire.runtime.parallel import World
from thinwire.runtime.steps import follow

_GATHERS = {Operation.RING: Exchange.RING, Operation.GUIDANCE: Exchange.GUIDANCE}
"""Operations that give one frame to a whole group."""
_TIMED = (TRANSFORMS[0], TRANSFORMS[len(TRANSFORMS) // 2], TRANSFORMS[-1])

log = structlog.get_logger(__name__)


class Steps(Protocol):
    """What begins prompts and ends steps; every rank calls it alike."""

    def begin_prompt(self, prompt: str, first_job_step: int) -> None:
        """Start a prompt."""

    def end_step(self) -> None:
        """End a step."""

    def rates(self) -> Mapping[str, int]:
        """Return what travels for one value now, in millibits, by link class."""


@dataclass(frozen=True, slots=True)
class OpenedExchange:
    """An exchange in its place; `close` takes it away again."""

    steps: Steps
    ladder: tuple[RungFacts, ...]
    kernel_name: str
    base_bytes: int
    close: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Setting:
    """What an exchange is opened in."""

    world: World
    traffic: Traffic
    dtype: torch.dtype
    transformer: torch.nn.Module
    attention_modules: list[torch.nn.Module]
    pacer: Pacer
    hooks: StepHooks
    calibration: Calibration | None = None


def open_exchange(setting: Setting, compression: Compression) -> OpenedExchange:
    """Open what `compression.mode` asks for. Collective."""
    if compression.mode == CompressionMode.COMPRESSION_MODE_OFF:
        return _open_paced(setting) if setting.pacer.emulates else _open_untouched(setting)
    return _open_coded(setting, compression)


def _open_untouched(setting: Setting) -> OpenedExchange:
    steps = UntouchedSteps(setting.world, setting.traffic, setting.dtype.itemsize, setting.hooks)
    return OpenedExchange(steps, _ladder([], RateTable.of(setting.traffic, setting.dtype)), "none", 0, _nothing)


def _open_paced(setting: Setting) -> OpenedExchange:
    table = RateTable.of(setting.traffic, setting.dtype)
    plan = CodecPlan(choose_kernel("eager"), 0, BaseFormat.FULL)
    off = table.millibits(None)
    boundary = _boundary(setting, Policy(table, 0, 0.0), plan, rate=off, listens=False)
    wire = Wire(setting.world.device, setting.pacer, boundary.moment, boundary.meter)
    installed = paced_upstream.install(setting.world, wire)
    return OpenedExchange(boundary, _ladder([], table), "none", 0, installed.remove)


def _open_coded(setting: Setting, compression: Compression) -> OpenedExchange:
    kernel = agree_on_kernel(setting.world)
    traffic, dtype = setting.traffic, setting.dtype
    order = compression.predictor_order
    budget_bytes = compression.base_memory_mebibytes * MEBIBYTE
    of_a_layer = base_bytes(traffic.attention_flows, dtype, order, kernel)
    of_none = base_bytes(traffic.other_flows, dtype, order, kernel)
    bases = plan_bases(of_a_layer, traffic.layers, budget_bytes, of_none)
    require_a_layer(bases, traffic.layers, of_a_layer, of_none, compression.base_memory_mebibytes)
    calibrated = _bases_of(setting)
    plan = CodecPlan(kernel, order, bases.base_format, bases.raw_layers, bases=calibrated)
    policy = Policy(
        table=RateTable.of(traffic, dtype, setting.calibration),
        warmup_steps=compression.warmup_steps,
        max_relative_error=compression.max_relative_error_milli / 1000,
    )
    # Also a fixed rate may be moved, by the job's owner.
    boundary = _boundary(setting, policy, plan, rate=compression.max_millibits, listens=True)
    wire = Wire(setting.world.device, setting.pacer, boundary.moment, boundary.meter)
    parcels = Parcels(boundary.streams, boundary.moment, boundary.meter, wire, policy.table.allocations)
    installed = seams.install(setting.world, parcels)
    followed = follow(setting.transformer, setting.attention_modules, boundary.moment)

    def close() -> None:
        followed.remove()
        installed.remove()

    if setting.world.rank == 0:
        log.info(
            "exchange.planned",
            kernel=kernel.name,
            base_format=bases.base_format.name,
            base_bytes=bases.base_bytes,
            layers_without_bases=len(bases.raw_layers),
        )
    ladder = _ladder(_measure(traffic, dtype, kernel, calibrated), policy.table)
    return OpenedExchange(boundary, ladder, kernel.name, bases.base_bytes, close)


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
    own = {operation: neighbours.ranks for operation, neighbours in seams.neighbours_of(world).items()}
    return StepBoundary(
        world=world,
        policy=policy,
        state=ExchangeState(rates=dict.fromkeys(setting.traffic.link_classes, rate)),
        streams=Streams(plan, world.device),
        moment=Moment(),
        meter=StepMeter(),
        groups=groups_of(world, own),
        audiences={_GATHERS[operation]: ranks for operation, ranks in own.items() if operation in _GATHERS},
        most_transfers=setting.traffic.transfers_per_step,
        hooks=setting.hooks,
        listens=listens,
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


def _nothing() -> None:
    return None
