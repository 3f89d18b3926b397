"""The same pictures by diffusers alone, in one process: what a parallel, compressed run is compared with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from thinwire.proto.thinwire.v1alpha1.run_spec_pb2 import Generation, Prompt, RunSpec
from thinwire.runtime.model import LoadedModel, load_model
from thinwire.runtime.picture import Pixels


@dataclass(frozen=True, slots=True)
class Reference:
    """One loaded pipeline of diffusers; `Session` and this take the same prompts."""

    model: LoadedModel
    generation: Generation

    @classmethod
    def open(cls, spec: RunSpec) -> "Reference":
        """Load the model of a RunSpec on this machine's GPU, or CPU where it has none; errors as `load_model`."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return cls(load_model(spec.model, device), spec.generation)

    def generate_pixels(self, prompt: Prompt) -> Pixels:
        """Return the picture as float32 [height, width, 3] in 0 to 1."""
        guidance_scale = self.generation.guidance_scale_milli / 1000
        text = self.model.encode(prompt.prompt, prompt.negative_prompt, guidance_scale)
        arguments = call_arguments(self.generation, prompt)
        family = self.model.family
        output = self.model.pipeline(**text, **family.plain_arguments(guidance_scale), **arguments)
        return family.pixels_of(output)


def call_arguments(generation: Generation, prompt: Prompt) -> Mapping[str, Any]:
    """Return what every pipeline is called with, whatever its family: size, steps, noise, and pixels as an answer."""
    frames = {"num_frames": generation.num_frames} if generation.num_frames else {}
    return {
        **frames,
        "height": generation.height,
        "width": generation.width,
        "num_inference_steps": generation.steps,
        "generator": torch.Generator("cpu").manual_seed(prompt.seed),
        "output_type": "np",
    }
