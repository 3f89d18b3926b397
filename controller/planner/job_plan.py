"""What a manifest will do: ranks and groups, bytes of a step on every link class at every rate, memory, refusals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from thinwire.controller.manifest.job import CompressionMode, DiffusionJob, Dtype
from thinwire.controller.manifest.preflight import preflight
from thinwire.controller.manifest.preflight.geometry import release_refusals, tokens_of
from thinwire.controller.manifest.preflight.model_folder import ModelFacts, read_model
from thinwire.controller.manifest.refusal import ManifestError, Refusal
from thinwire.controller.planner import rungs
from thinwire.controller.planner.layout import Layout, LinkClass, layout_of
from thinwire.controller.planner.memory import MEBIBYTE, BaseMemory, base_memory, least_memory
from thinwire.controller.planner.pricing import Pricing
from thinwire.controller.planner.rungs import OFF, RungPrice, ladder
from thinwire.controller.planner.traffic import Attention, Operation, Traffic, traffic_of
from thinwire.controller.policy.forecast import allowed
from thinwire.controller.policy.reports import Limits, Rung


@dataclass(frozen=True, slots=True)
class RungBytes:
    """What the busiest rank sends at one rate: in a step, in a picture's first step of key frames, in a whole picture.

    `picture_bytes_of_all` is what all ranks together send over these links for a picture of every replica.
    """

    rung: str
    millibits: int
    step_bytes: int
    key_frame_bytes: int
    picture_bytes: int
    picture_bytes_of_all: int
    within_limits: bool = False


@dataclass(frozen=True, slots=True)
class LinkPlan:
    """One link class: what the busiest rank sends over it in a step. `ranks` is how many of them use it."""

    link_class: LinkClass
    ranks: int
    values_per_step: int
    operations_per_step: int
    operations: tuple[Operation, ...]
    rungs: tuple[RungBytes, ...]


@dataclass(frozen=True, slots=True)
class JobPlan:
    """See the module. Without facts of the model (only a cluster has it) layout and refusals are all there is."""

    layout: Layout
    refusals: tuple[Refusal, ...]
    attention: Attention | None = None
    value_bytes: int = 0
    links: tuple[LinkPlan, ...] = ()
    memory: BaseMemory | None = None


def plan_job(job: DiffusionJob) -> JobPlan:
    """Plan a valid job; what cannot run is in `refusals`, and then nothing else is worked out."""
    refusals = tuple(preflight(job))
    layout = layout_of(job)
    if refusals:
        return JobPlan(layout, refusals)
    try:
        facts = read_model(job.model)
    except ManifestError as error:
        return JobPlan(layout, error.refusals)
    return JobPlan(layout, ()) if facts is None else plan_with(job, facts)


def plan_unseen(job: DiffusionJob) -> JobPlan:
    """Plan a valid job whose model is nowhere that can be read: what its manifest alone says of it."""
    return JobPlan(layout_of(job), tuple(release_refusals(job, None)))


def plan_with(job: DiffusionJob, facts: ModelFacts) -> JobPlan:
    """Plan a job that can run, with a model whose facts are known."""
    layout, attention = layout_of(job), attention_of(job, facts)
    mode = job.parallelism.patch_mode
    traffics = [traffic_of(attention, layout, rank, mode) for rank in range(layout.ranks)]
    value_bytes = value_bytes_of(job)
    coded = job.compression.mode is not CompressionMode.OFF
    budget_bytes = job.compression.base_memory_mebibytes * MEBIBYTE
    memories = [base_memory(traffic, job.compression.predictor_order, budget_bytes) for traffic in traffics]
    largest = max(memories, key=lambda memory: memory.base_bytes)
    pricing = Pricing.of(job, value_bytes)
    has_bases = facts.calibrated and any(flow.of_attention for traffic in traffics for flow in traffic.flows)
    links = tuple(
        _link(job, link_class, traffics, memories, pricing, ladder(calibrated=has_bases))
        for link_class in LinkClass
        if any(link_class in traffic.link_classes for traffic in traffics)
    )
    refusals = tuple(_memory_refusals(job, traffics, memories)) if coded else ()
    return JobPlan(layout, refusals, attention, value_bytes, links, largest if coded else None)


def _memory_refusals(
    job: DiffusionJob, traffics: Sequence[Traffic], memories: Sequence[BaseMemory]
) -> Iterator[Refusal]:
    """Refuse a budget under which no layer would be coded, as the ranks would."""
    order = job.compression.predictor_order
    uncoded = [
        traffic
        for traffic, memory in zip(traffics, memories, strict=True)
        if 0 < traffic.layers == memory.layers_without
    ]
    if uncoded:
        least = max(least_memory(traffic, order) for traffic in uncoded)
        given = str(job.compression.base_memory_mebibytes)
        expected = f"at least {-(-least // MEBIBYTE)} for the bases of one layer"
        remedy = "raise it, set it to 0 for no limit, or set compression.mode to Off"
        yield Refusal("spec.compression.baseMemoryMebibytes", expected, given, remedy)


def attention_of(job: DiffusionJob, facts: ModelFacts) -> Attention:
    """Return what the model's attention works on for pictures of the job's size."""
    generation = job.generation
    rows, columns = generation.height // facts.token_pixels, generation.width // facts.token_pixels
    return Attention(
        layers=facts.layers,
        batch=2 if facts.family.guides_by_batch else 1,
        image_tokens=tokens_of(job, facts),
        text_tokens=facts.text_tokens,
        heads=facts.heads,
        head_dim=facts.head_dim,
        combines_inputs=facts.family.combines_inputs,
        latent_channels=facts.latent_channels * facts.latent_frames(generation.num_frames or 1),
        latents=rows * columns * facts.token_latents,
        forwards=2 if facts.family.guides_by_forwards and generation.guidance_scale_milli > 1000 else 1,
        latents_are_tokens=facts.family.latents_per_token > 1,
        text_varies=facts.family.text_varies,
    )


def value_bytes_of(job: DiffusionJob) -> int:
    """Return the bytes of one activation."""
    if job.model.dtype is Dtype.AUTO:
        return 4 if job.accelerator == "cpu" else 2
    return 4 if job.model.dtype is Dtype.FLOAT32 else 2


def _link(
    job: DiffusionJob,
    link_class: LinkClass,
    traffics: Sequence[Traffic],
    memories: Sequence[BaseMemory],
    pricing: Pricing,
    choices: tuple[RungPrice, ...],
) -> LinkPlan:
    users = [number for number, traffic in enumerate(traffics) if link_class in traffic.link_classes]
    busiest = max(users, key=lambda number: traffics[number].values_per_step(link_class))
    traffic = traffics[busiest]
    rungs_of_mode = (None,) if job.compression.mode is CompressionMode.OFF else (None, *choices)
    priced = []
    for rung in rungs_of_mode:
        sent = [pricing.sent(rung, traffics[number], link_class, memories[number]) for number in users]
        own = sent[users.index(busiest)]
        name = OFF if rung is None else rung.name
        whole = sum(one.picture_bytes for one in sent)
        millibits = pricing.millibits(rung, traffic)
        priced.append(RungBytes(name, millibits, own.step_bytes, own.first_bytes, own.picture_bytes, whole))
    chosen = _within_limits(job, priced, choices)
    return LinkPlan(
        link_class,
        len(users),
        traffic.values_per_step(link_class),
        traffic.operations_per_step(link_class),
        tuple(operation for operation, (carrier, _) in traffic.operations.items() if carrier is link_class),
        tuple(replace(one, within_limits=one.rung in chosen) for one in priced),
    )


def _within_limits(job: DiffusionJob, priced: Sequence[RungBytes], choices: tuple[RungPrice, ...]) -> frozenset[str]:
    """Name the rungs that the job's mode and limits let it use; the law itself decides with `allowed`."""
    rate = job.compression.rate
    if job.compression.mode is CompressionMode.OFF:
        return frozenset({OFF})
    if job.compression.mode is CompressionMode.FIXED:
        return frozenset({fixed_rung(rate.max_millibits, priced, choices)})
    distortions = {rung.name: rung.distortion for rung in choices}
    rungs_of_law = [Rung(one.rung, one.millibits, distortion=distortions.get(one.rung, 0.0)) for one in priced]
    limits = Limits(
        adaptive=True,
        min_millibits=rate.min_millibits,
        max_millibits=rate.max_millibits,
        target_stall_percent=job.compression.target_stall_percent,
        max_relative_error_milli=job.compression.max_relative_error_milli,
        warmup_steps=job.compression.warmup_steps,
        steps_per_prompt=job.generation.steps,
    )
    return frozenset(rung.name for rung in allowed(rungs_of_law, limits, 0))


def fixed_rung(millibits: int, priced: Sequence[RungBytes], choices: tuple[RungPrice, ...]) -> str:
    """Name what carries a fixed rate: the rung that costs exactly this, else the least lossy whose bits fit."""
    if millibits >= rungs.OFF_MILLIBITS:
        return OFF
    exact = next((one.rung for one in priced if one.millibits == millibits), None)
    least = min(choices, key=lambda rung: rung.millibits)
    fitting = next((rung.name for rung in choices if rung.millibits <= millibits), least.name)
    return exact or fitting
