"""`python -m thinwire.runtime.calibrate FOLDER`: measure a model's bases and their costs, and write its calibration.

A few pictures are sampled by plain diffusers in one process, three times over (runtime/calibrating.py):

    bases    residuals of a closed loop, and gradients of a random projection of the guided prediction with respect to
             what is coded: their second moments are what an error costs in each direction, with all that lies between
             the tensor and the picture's direction: softmax, text tokens, normalisation, guidance, later layers
    curves   how the error of each (layer, role) falls with the rate
    costs    what one (layer, role) at half a bit, the rest exact, does to the picture. Gradients do not tell it: they
             know one step, and errors that last over steps and tokens add up

Progress goes to standard output, one JSON object a line.
"""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from thinwire.compression import CALIBRATION_FILE, COST_MILLIBITS, Calibration, TransformRung, choose_kernel
from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import Dtype, Generation, Model, Prompt
from thinwire.runtime.calibrating import AloneAttention, BasisAttention, CurveAttention, WatchedAttention
from thinwire.runtime.entry import configure_log
from thinwire.runtime.errors import BadInputError
from thinwire.runtime.exchange.moment import Moment
from thinwire.runtime.fingerprint import model_fingerprint
from thinwire.runtime.model import LoadedModel, load_model
from thinwire.runtime.process import ExitCode, die_with_parent
from thinwire.runtime.reference import call_arguments

PROMPTS = (
    "crying face",
    "tulip",
    "automobile",
    "butterfly",
    "blue heart",
    "fox face",
    "banana",
    "basketball and hoop",
    "hamburger",
    "flag of france",
    "light bulb",
    "christmas tree",
)
COST_PROMPTS = 4
WIDEST_BLOCK = 256
_FIRST_SEED = 500
_ALONE = 1
"""Which of COST_MILLIBITS a place is coded at, the rest exact."""
_LEAST_ENERGY = 1e-30


@dataclass(frozen=True, slots=True)
class Plan:
    """What is sampled; pixels 0 is the model's own size."""

    folder: Path
    output: Path
    prompts: tuple[str, ...]
    steps: int
    guidance_scale: float
    pixels: int
    cost_prompts: int = COST_PROMPTS
    """How many of the prompts the costs are measured on; 0 measures none, and every place gets the same rate."""
    widest_block: int = WIDEST_BLOCK
    """Channels of the widest block of heads that a basis turns together."""


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
    model.pipeline.transformer.requires_grad_(False)
    side = plan.pixels or int(model.pipeline.default_sample_size * model.pipeline.vae_scale_factor)
    calibration = _Measuring(plan, model, side).calibration()
    try:
        calibration.save(plan.output)
    except OSError as error:
        raise BadInputError(f"{plan.output} cannot be written ({error}); name another with --output") from error
    return calibration


@dataclass(slots=True)
class _Measuring:
    """Samples the plan's pictures under one kind of attention after the other."""

    plan: Plan
    model: LoadedModel
    side: int
    done: int = 0
    total: int = 0

    def calibration(self) -> Calibration:
        """Return what is found."""
        plan, transformer = self.plan, self.model.pipeline.transformer
        kernel = choose_kernel("native" if not torch.cuda.is_available() else "eager")
        seen = (Moment(), self.model.family.attention_modules(transformer), kernel)
        weighed = range(min(plan.cost_prompts, len(plan.prompts)))
        self.total = len(plan.prompts) * plan.steps
        found = BasisAttention(*seen, plan.guidance_scale, plan.widest_block)
        for number in range(len(plan.prompts)):
            self._sampled("bases", number, found)
        bases = found.bases()
        widest = {place: sizes[0] for place, sizes in bases.items()}
        recipe = (
            f"{len(plan.prompts)} prompts, {plan.steps} steps, {self.side} pixels, guidance {plan.guidance_scale:g}"
        )
        if not weighed:
            return Calibration(model_fingerprint(plan.folder), recipe, bases)
        self.total += len(weighed) * plan.steps * (2 + len(bases))
        curves = CurveAttention(*seen, widest, [TransformRung(rate) for rate in COST_MILLIBITS])
        for number in weighed:
            self._sampled("curves", number, curves)
        alone = COST_MILLIBITS[_ALONE]
        costs = dict.fromkeys(bases, 0.0)
        for number in weighed:
            exact = self._sampled("exact picture", number, None)
            for place, basis in widest.items():
                what = f"layer {place[0]}, {place[1].name.lower()}"
                coded = self._sampled(what, number, AloneAttention(*seen, place, basis, TransformRung(alone)))
                energy = float((coded - exact).double().square().mean())
                costs[place] += math.log(max(energy, _LEAST_ENERGY)) / len(weighed)
        curve = {place: _falling(errors) for place, errors in curves.errors.items()}
        costed = {
            place: tuple(math.exp(costs[place]) * error / curve[place][_ALONE] for error in curve[place])
            for place in bases
        }
        return Calibration(model_fingerprint(plan.folder), f"{recipe}, costs of {len(weighed)}", bases, costed)

    def _sampled(self, what: str, number: int, attention: WatchedAttention | None) -> torch.Tensor:
        """Return the latents of one of the plan's pictures."""
        plan, model = self.plan, self.model
        prompt = Prompt(name=str(number), prompt=plan.prompts[number], seed=_FIRST_SEED + number)
        encoded = model.encode(prompt.prompt, "", plan.guidance_scale)
        generation = Generation(steps=plan.steps, height=self.side, width=self.side)
        arguments = dict(call_arguments(generation, prompt)) | {"output_type": "latent"}

        def end_step(_: object, step: int, *__: object) -> Mapping[str, Any]:
            self.done += 1
            _say(f"{what}, step {step + 1}", self.done, self.total)
            return {}

        family_arguments = model.family.plain_arguments(plan.guidance_scale)
        if attention is not None:
            attention.begin_prompt()
        with attention.watching(model.pipeline.transformer) if attention is not None else nullcontext():
            result = model.pipeline(**encoded, **family_arguments, **arguments, callback_on_step_end=end_step)
        latents: torch.Tensor = result[0] if isinstance(result, tuple) else result.images
        return latents


def _falling(errors: Sequence[float]) -> list[float]:
    """Return errors none of which is greater than the one before, nor zero."""
    least = [min(errors[: index + 1]) for index in range(len(errors))]
    return [max(error, _LEAST_ENERGY * max(least[0], 1.0)) for error in least]


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
    parser.add_argument("--cost-prompts", type=int, default=COST_PROMPTS)
    parser.add_argument("--widest-block", type=int, default=WIDEST_BLOCK)
    asked = parser.parse_args(arguments)
    configure_log(0)
    plan = Plan(
        asked.folder,
        asked.output or asked.folder / CALIBRATION_FILE,
        tuple(asked.prompt or PROMPTS),
        asked.steps,
        asked.guidance,
        asked.pixels,
        asked.cost_prompts,
        asked.widest_block,
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
