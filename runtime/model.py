"""Loading a model folder in diffusers' format, and the two ways to run it: xfuser's wrapper, or diffusers as it is.

Components are loaded one by one so that a person sees progress. A component that `model_index.json` gives as null is
passed as None: diffusers refuses the folder otherwise. `thinwire.json` beside it may hold
`{"max_sequence_length": 16}`, the text length that the model was trained with.
"""

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import torch

from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import Dtype, Generation, Model
from thinwire.runtime.errors import BadInputError
from thinwire.runtime.families import family_of
from thinwire.runtime.families.family import AttentionShape, Family, TextQuery
from thinwire.runtime.parallel import Degrees, PatchMode, World

SIDECAR = "thinwire.json"
_DTYPES = {
    Dtype.DTYPE_UNSPECIFIED: torch.bfloat16,
    Dtype.DTYPE_FLOAT32: torch.float32,
    Dtype.DTYPE_BFLOAT16: torch.bfloat16,
    Dtype.DTYPE_FLOAT16: torch.float16,
}
Progress = Callable[[str, int, int], None]
"""Called with a component's name, its number counted from 1, and how many there are."""

log = structlog.get_logger(__name__)


def log_progress(component: str, number: int, total: int) -> None:
    """Log one line per component."""
    log.info("model.loading", component=component, number=number, total=total)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A pipeline of diffusers on its device, with what its folder says about it."""

    pipeline: Any
    family: Family
    dtype: torch.dtype
    device: torch.device
    max_sequence_length: int

    def encode(self, prompt: str, negative_prompt: str, guidance_scale: float) -> Mapping[str, Any]:
        """Return the call arguments that stand for the text."""
        query = TextQuery(prompt, negative_prompt, guidance_scale, self.max_sequence_length)
        with torch.no_grad():
            return self.family.encode(self.pipeline, query, self.device)

    def attention_shape(self, generation: Generation) -> AttentionShape:
        """Return the shape of its attention for pictures of this size."""
        return self.family.attention_shape(self.pipeline, generation, self.max_sequence_length)


def load_model(
    model: Model, device: torch.device, progress: Progress = log_progress, *, parallel: bool = False
) -> LoadedModel:
    """Load every component of the folder and put the pipeline on its device.

    parallel: whether the transformer is to be xfuser's, for a family of which xfuser has no more than that.

    Raises:
        BadInputError: folder or index missing, a component unreadable, or a pipeline class that is not supported.
    """
    folder = Path(model.path)
    index = _read_json(folder / "model_index.json", "model.path")
    named = str(index.get("_class_name", ""))
    family = family_of(model.pipeline or named)
    if named != family.pipeline_class:
        raise BadInputError(
            f"model.pipeline: expected {named!r}, the class of {folder}, got {family.pipeline_class!r}: change one"
        )
    dtype = _DTYPES[model.dtype]
    _quieten_libraries()
    components = _components(index)
    if parallel and family.transformer_class is not None:
        components["transformer"] = family.transformer_class
    loaded: dict[str, Any] = {}
    for number, (name, source) in enumerate(components.items(), start=1):
        progress(name, number, len(components))
        loaded[name] = None if source is None else _load_component(folder / name, *source, dtype)
    pipeline_class = getattr(importlib.import_module("diffusers"), family.pipeline_class)
    pipeline = pipeline_class.from_pretrained(str(folder), **loaded, dtype=dtype).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return LoadedModel(pipeline, family, dtype, device, _max_sequence_length(folder, family))


def _quieten_libraries() -> None:
    """Progress is logged here, component by component; bars of every rank at once would bury it."""
    diffusers_logging, transformers_logging = (
        importlib.import_module(name) for name in ("diffusers.utils.logging", "transformers.utils.logging")
    )
    for logging in (diffusers_logging, transformers_logging):
        logging.disable_progress_bar()
        logging.set_verbosity_error()


def parallelise(model: LoadedModel, path: str, world: World, warmup_steps: int) -> Any:
    """Return xfuser's pipeline around the model; the model's transformer is wrapped in place.

    warmup_steps: for how many steps PipeFusion's stages go in step; upstream crashes without any.

    Raises:
        BadInputError: heads not divisible by the Ulysses degree.
    """
    import xfuser

    engine, _ = xfuser.xFuserArgs(
        model=path,
        ulysses_degree=world.degrees.ulysses,
        ring_degree=world.degrees.ring,
        pipefusion_parallel_degree=world.degrees.pipefusion,
        use_cfg_parallel=world.degrees.cfg == 2,
        data_parallel_degree=world.degrees.data,
        warmup_steps=warmup_steps,
        attention_backend=_attention_backend(model),
    ).create_config()
    # PipeFusion receives in this type; its default, float16, would be wrong for other models.
    engine.runtime_config.dtype = model.dtype
    if model.family.transformer_class is not None:
        from xfuser.core.distributed import initialize_runtime_state

        initialize_runtime_state(pipeline=model.pipeline, engine_config=engine)
        return model.pipeline
    return getattr(xfuser, model.family.wrapper_class)(model.pipeline, engine)


def refuse_impossible_size(model: LoadedModel, height: int, width: int) -> None:
    """Check that the model can make pictures of this size in pixels.

    Raises:
        BadInputError: a side that is not a whole number of tokens, or beyond the transformer's positions.
    """
    token_pixels = model.family.token_pixels(model.pipeline)
    largest = model.family.largest_side_pixels(model.pipeline)
    for name, side in (("height", height), ("width", width)):
        if side <= 0 or side % token_pixels or (largest is not None and side > largest):
            limit = "" if largest is None else f" up to {largest}"
            raise BadInputError(
                f"generation.{name}: expected a multiple of {token_pixels} pixels{limit}, got {side}: "
                "choose a size that the model was made for"
            )


def refuse_what_upstream_gets_wrong(shape: AttentionShape, family: Family, degrees: Degrees) -> None:
    """Check what xfuser would compute wrongly or die of, before anything runs.

    Raises:
        BadInputError: a dimension that is not supported; or heads, rows of image tokens or (where it matters) text
            tokens that the degrees do not divide.
    """
    if degrees.patch_mode is not PatchMode.NONE and degrees.ring == 1:
        raise BadInputError(
            f"parallelism.patchMode: expected None with ring 1, got {degrees.patch_mode}: patches are a ring's shards"
        )
    if degrees.patch_mode is PatchMode.DISTRIFUSION and degrees.pipefusion > 1:
        raise BadInputError(
            "parallelism.patchMode: expected None or Gather with pipefusion above 1, got DistriFusion: choose one"
        )
    if -(-shape.layers // degrees.pipefusion) * (degrees.pipefusion - 1) >= shape.layers > 1:
        raise BadInputError(
            f"parallelism.pipefusion: expected stages that each get some of the model's {shape.layers} layers, "
            f"got {degrees.pipefusion}: choose fewer stages"
        )
    if shape.batch % degrees.cfg:
        raise BadInputError(
            f"parallelism.cfg: expected 1 for {family.pipeline_class}, which has no guidance batch, "
            f"got {degrees.cfg}: choose 1"
        )
    if shape.heads % degrees.ulysses:
        raise BadInputError(
            f"parallelism.ulysses: expected a divisor of the model's {shape.heads} attention heads, "
            f"got {degrees.ulysses}: choose another degree"
        )
    if not family.shares_rows and shape.image_tokens % degrees.sequence:
        raise BadInputError(
            f"parallelism: expected ulysses x ring = {degrees.sequence} to divide the {shape.image_tokens} tokens, "
            "which it does not: choose another size, another number of frames or other degrees"
        )
    parts = degrees.sequence * degrees.pipefusion
    if family.shares_rows and shape.image_rows % parts:
        by = "ulysses x ring" if degrees.pipefusion == 1 else "ulysses x ring x pipefusion"
        raise BadInputError(
            f"generation.height: expected a number of token rows divisible by {by} = {parts}, "
            f"got {shape.image_rows} rows: choose another height or other degrees"
        )
    if family.text_must_divide and shape.text_tokens % degrees.sequence:
        raise BadInputError(
            f"model text length: expected a multiple of ulysses x ring = {degrees.sequence}, "
            f"got {shape.text_tokens}: change max_sequence_length in {SIDECAR} or the degrees"
        )


def _attention_backend(model: LoadedModel) -> str | None:
    if model.device.type == "cpu":
        return "SDPA_FLASH"
    # The flash and cuDNN kernels take half-width types only; this one returns the log-sum-exp in full width too.
    return "SDPA_EFFICIENT" if model.dtype == torch.float32 else None


def _components(index: Mapping[str, Any]) -> dict[str, tuple[str, str] | None]:
    components: dict[str, tuple[str, str] | None] = {}
    for name, value in index.items():
        if isinstance(value, list) and len(value) == 2:
            library, class_name = value
            components[name] = None if library is None or class_name is None else (library, class_name)
    return components


def _load_component(folder: Path, library: str, class_name: str, dtype: torch.dtype) -> Any:
    try:
        component_class = getattr(importlib.import_module(library), class_name)
        is_module = isinstance(component_class, type) and issubclass(component_class, torch.nn.Module)
        return component_class.from_pretrained(str(folder), **({"dtype": dtype} if is_module else {}))
    except Exception as error:
        raise BadInputError(
            f"model.path: expected a readable {class_name} in {folder}, got {type(error).__name__}: {error}; "
            "copy the model again"
        ) from error


def _read_json(path: Path, field: str) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInputError(
            f"{field}: expected a model folder in diffusers' format with {path.name}, got {error}: check the path"
        ) from error
    if not isinstance(read, dict):
        raise BadInputError(f"{field}: expected an object in {path}, got {type(read).__name__}: copy the model again")
    return read


def _max_sequence_length(folder: Path, family: Family) -> int:
    sidecar = folder / SIDECAR
    if not sidecar.exists():
        return family.default_max_sequence_length
    length = _read_json(sidecar, SIDECAR).get("max_sequence_length", family.default_max_sequence_length)
    if not isinstance(length, int) or length < 1:
        raise BadInputError(f"{sidecar}: expected max_sequence_length to be 1 or more, got {length!r}: correct it")
    return length
