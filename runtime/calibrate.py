"""`python -m thinwire.runtime.calibrate FOLDER`: measure a model's bases and sensitivities, and write its calibration.

A few pictures are sampled by plain diffusers in one process while all that attention takes and gives goes through a
closed loop of the codec. Gathered per (layer, role), in thinwire.compression's BasisMeter:

    residuals   what the closed loop codes: C of the bases
    gradients   of a random projection of the guided prediction with respect to the tensor: their second moments are M,
                what an error costs in each direction, with all that lies between the tensor and the picture's
                direction: softmax, text tokens, normalisation, guidance, later layers. One backward pass in every
                fourth step measures all places at once.

Progress goes to standard output, one JSON object a line.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from thinwire.compression import (
    BITS2,
    CALIBRATION_FILE,
    RAW,
    BasisMeter,
    Calibration,
    Exchange,
    Place,
    Role,
    StreamDecoder,
    StreamEncoder,
    StreamId,
    choose_kernel,
)
from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import Dtype, Generation, Model, Prompt
from thinwire.runtime.entry import configure_log
from thinwire.runtime.errors import BadInputError
from thinwire.runtime.exchange.moment import Moment
from thinwire.runtime.fingerprint import model_fingerprint
from thinwire.runtime.model import load_model
from thinwire.runtime.process import ExitCode, die_with_parent
from thinwire.runtime.reference import call_arguments
from thinwire.runtime.steps import follow

PROMPTS = ("crying face", "tulip", "automobile", "butterfly")
PROBE_EVERY_STEPS = 4
_FIRST_SEED = 500


@dataclass(slots=True)
class _Loop:
    """Both ends of the codec for one tensor of one layer."""

    encoder: StreamEncoder
    decoder: StreamDecoder


@dataclass
class CalibratingAttention(TorchFunctionMode):
    """Within the block, attention inside the transformer is observed. Tensors: [B, H, S, D] as attention takes them."""

    moment: Moment
    modules: Sequence[torch.nn.Module]
    guidance_scale: float
    inside: bool = False
    step: int = -1
    leaves: dict[Place, torch.Tensor] | None = None
    loops: dict[Place, _Loop] = field(default_factory=dict)
    meters: dict[Place, BasisMeter] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()
        self.kernel = choose_kernel("native" if not torch.cuda.is_available() else "eager")
        self.generator = torch.Generator().manual_seed(0)

    def begin_prompt(self) -> None:
        """Forget bases: a new picture."""
        self.step = -1
        self.loops.clear()

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Take the place of attention; everything else goes on as it is."""
        kwargs = kwargs or {}
        if function is not torch.nn.functional.scaled_dot_product_attention or not self.inside:
            return function(*args, **kwargs)
        rest = dict(kwargs) | dict(zip(("query", "key", "value", "attn_mask", "dropout_p"), args, strict=False))
        query, key, value = (rest.pop(name) for name in ("query", "key", "value"))
        pass_on = self._probed if self.leaves is not None else self._travelled
        query, key, value = (
            pass_on(tensor, role) for tensor, role in ((query, Role.QUERY), (key, Role.KEY), (value, Role.VALUE))
        )
        return pass_on(function(query, key, value, **rest), Role.OUTPUT)

    def _travelled(self, tensor_BHSD: torch.Tensor, role: Role) -> torch.Tensor:
        batch, heads, tokens, size = tensor_BHSD.shape
        place = (self.moment.layer, role)
        rows_RC = tensor_BHSD.transpose(1, 2).reshape(batch * tokens, heads * size).contiguous()
        key_frame = place not in self.loops
        if key_frame:
            stream = StreamId(Exchange.RING, place[0], role, 0, 0)
            shape, dtype, device = rows_RC.shape, rows_RC.dtype, rows_RC.device
            self.loops[place] = _Loop(
                StreamEncoder(stream, shape[0], shape[1], dtype, kernel=self.kernel, device=device),
                StreamDecoder(stream, shape[0], shape[1], dtype, kernel=self.kernel, device=device),
            )
        loop = self.loops[place]
        if not key_frame:
            meter = self.meters.setdefault(place, BasisMeter(heads, size))
            meter.add((rows_RC - loop.decoder.prediction()).float())
        rung, step = RAW if key_frame else BITS2, self.step
        sent = loop.encoder.encode(rows_RC, rung=rung, epoch=0, step=step, key_frame=key_frame)
        arrived_RC = loop.decoder.decode(sent.frame, rung=rung, epoch=0, step=step, key_frame=key_frame)
        return arrived_RC.view(batch, tokens, heads, size).transpose(1, 2)

    def _probed(self, tensor_BHSD: torch.Tensor, role: Role) -> torch.Tensor:
        assert self.leaves is not None
        leaf = torch.zeros_like(tensor_BHSD, requires_grad=True)
        self.leaves[self.moment.layer, role] = leaf
        return tensor_BHSD + leaf

    @contextmanager
    def watching(self, transformer: torch.nn.Module) -> Iterator[None]:
        """Follow a transformer's forwards while the body runs."""

        def enter(*_: object) -> None:
            self.inside = True
            self.step += 1

        def leave(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            if self.step % PROBE_EVERY_STEPS == 1:
                self._probe(module, args, kwargs)
            self.inside = False

        handles = [
            transformer.register_forward_pre_hook(enter),
            transformer.register_forward_hook(leave, with_kwargs=True),
        ]
        followed = follow(transformer, self.modules, self.moment)
        try:
            with self:
                yield
        finally:
            followed.remove()
            for handle in handles:
                handle.remove()

    def _probe(self, module: Any, args: Any, kwargs: Any) -> None:
        """Add what a unit of relative error costs in this step, in every place at once."""
        self.leaves = {}
        with torch.enable_grad():
            output = module.forward(*args, **kwargs)
            output = output[0] if isinstance(output, tuple) else output.sample
            projection = torch.randn(output.shape, generator=self.generator).to(output)
            if output.shape[0] == 2:  # without and with the prompt, as guidance adds them up
                projection[0], projection[1] = (
                    (1 - self.guidance_scale) * projection[0],
                    self.guidance_scale * projection[0],
                )
            gradients = torch.autograd.grad((output * projection).sum(), list(self.leaves.values()), allow_unused=True)
        for place, gradient_BHSD in zip(self.leaves, gradients, strict=True):
            if gradient_BHSD is not None and place in self.meters:
                self.meters[place].weigh(gradient_BHSD.transpose(1, 2).flatten(0, 1).flatten(1))
        self.leaves = None

    def result(self, model: str, recipe: str) -> Calibration:
        """Return what was found."""
        mean = sum(meter.sensitivity for meter in self.meters.values()) / max(len(self.meters), 1) or 1.0
        return Calibration(
            model,
            recipe,
            {place: meter.basis().in_half_precision() for place, meter in self.meters.items()},
            {place: meter.sensitivity / mean for place, meter in self.meters.items()},
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """What is sampled; pixels 0 is the model's own size."""

    folder: Path
    output: Path
    prompts: tuple[str, ...]
    steps: int
    guidance_scale: float
    pixels: int


def calibrate(plan: Plan) -> Calibration:
    """Measure a model and write the file.

    Raises:
        BadInputError: the folder holds no supported model, or the file cannot be written.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    index = plan.folder / "model_index.json"
    if not index.is_file():
        raise BadInputError(f"MODEL: expected a folder in diffusers' format, got none at {plan.folder}; check the path")
    dtype = Dtype.DTYPE_BFLOAT16 if device.type == "cuda" else Dtype.DTYPE_FLOAT32
    named = str(json.loads(index.read_text(encoding="utf-8")).get("_class_name", ""))
    model = load_model(Model(path=str(plan.folder), pipeline=named, dtype=dtype), device, _say_loading)
    transformer = model.pipeline.transformer.requires_grad_(False)
    side = plan.pixels or int(model.pipeline.default_sample_size * model.pipeline.vae_scale_factor)
    attention = CalibratingAttention(Moment(), model.family.attention_modules(transformer), plan.guidance_scale)
    generation = Generation(steps=plan.steps, height=side, width=side)
    for number, text in enumerate(plan.prompts):
        attention.begin_prompt()
        prompt = Prompt(name=str(number), prompt=text, seed=_FIRST_SEED + number)
        encoded = model.encode(text, "", plan.guidance_scale)
        arguments = dict(call_arguments(generation, prompt)) | {"output_type": "latent"}

        def end_step(_: object, step: int, *__: object, number: int = number) -> Mapping[str, Any]:
            _say(f"step {step + 1}", number * plan.steps + step + 1, len(plan.prompts) * plan.steps)
            return {}

        with attention.watching(transformer):
            family_arguments = model.family.plain_arguments(plan.guidance_scale)
            model.pipeline(**encoded, **family_arguments, **arguments, callback_on_step_end=end_step)
    recipe = f"{len(plan.prompts)} prompts, {plan.steps} steps, {side} pixels, guidance {plan.guidance_scale:g}"
    calibration = attention.result(model_fingerprint(plan.folder), recipe)
    try:
        calibration.save(plan.output)
    except OSError as error:
        raise BadInputError(f"{plan.output} cannot be written ({error}); name another with --output") from error
    return calibration


def _say(what: str, done: int, total: int) -> None:
    sys.stdout.write(json.dumps({"what": what, "done": done, "total": total}) + "\n")
    sys.stdout.flush()


def _say_loading(component: str, number: int, total: int) -> None:
    _say(f"loading {component}", 0, total)


def main(arguments: Sequence[str] | None = None) -> int:
    """Calibrate the model named on the command line, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m thinwire.runtime.calibrate", description="calibrate a model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--prompt", action="append")
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--pixels", type=int, default=0)
    asked = parser.parse_args(arguments)
    configure_log(0)
    plan = Plan(
        asked.folder,
        asked.output or asked.folder / CALIBRATION_FILE,
        tuple(asked.prompt or PROMPTS),
        asked.steps,
        asked.guidance,
        asked.pixels,
    )
    try:
        calibrate(plan)
    except BadInputError as error:
        sys.stderr.write(f"thinwire: {error}\n")
        return ExitCode.BAD_INPUT
    return ExitCode.DONE


if __name__ == "__main__":
    die_with_parent()
    sys.exit(main())
