"""Draw a grid of samples from a pipeline folder: `python -m examples.train_emoji.sample FOLDER GRID.png`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from diffusers import StableDiffusion3Pipeline
from PIL import Image

from bench.prompts import MEASURED


def draw(
    pipeline: StableDiffusion3Pipeline, prompts: tuple[str, ...], steps: int, guidance: float
) -> list[Image.Image]:
    """One picture a prompt, seeded by its place; prompts are encoded to the length the model was trained with."""
    length = pipeline.tokenizer.model_max_length
    positive, negative, pooled, negative_pooled = pipeline.encode_prompt(
        list(prompts), None, None, max_sequence_length=length
    )
    latents = torch.cat(
        [torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in range(len(prompts))]
    )
    return pipeline(
        prompt_embeds=positive,
        negative_prompt_embeds=negative,
        pooled_prompt_embeds=pooled,
        negative_pooled_prompt_embeds=negative_pooled,
        latents=latents.to(positive.dtype),
        num_inference_steps=steps,
        guidance_scale=guidance,
        height=64,
        width=64,
    ).images


def grid(pictures: list[Image.Image], columns: int = 8, gap: int = 8) -> Image.Image:
    """The pictures in rows of `columns`, on white."""
    side = pictures[0].width
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (side + gap) + gap, rows * (side + gap) + gap), "white")
    for place, picture in enumerate(pictures):
        sheet.paste(picture, (gap + (place % columns) * (side + gap), gap + (place // columns) * (side + gap)))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("grid", type=Path)
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--guidance", type=float, default=2.5)
    args = parser.parse_args()
    nulls = {
        k: None for k, v in json.loads((args.folder / "model_index.json").read_text()).items() if v == [None, None]
    }
    pipeline = StableDiffusion3Pipeline.from_pretrained(args.folder, torch_dtype=torch.float32, **nulls)
    grid(draw(pipeline, MEASURED, args.steps, args.guidance)).save(args.grid)


if __name__ == "__main__":
    main()
