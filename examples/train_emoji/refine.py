"""Train an exported pipeline on, at full size: `python -m examples.train_emoji.refine FOLDER --work DIR --out FOLDER`.

The folder is the checkpoint that everybody has: more steps need neither the autoencoder's training nor the first
part's. Seeded, resumable, bf16 products with fp32 weights; the autoencoder stays as it is.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from transformers import CLIPTextModelWithProjection, CLIPTokenizerFast

from examples.train_emoji import data, train, transformer

PEAK_LEARNING_RATE = 6e-4
# Steps before this one's number were the folder's own training, so that no batch is drawn twice.
FIRST_STEP = 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the pipeline to go on from")
    parser.add_argument("--work", type=Path, default=Path("build/train_emoji"), help="data and checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="the new pipeline's folder")
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--compile", action="store_true", help="torch.compile the transformer (wants a C++ compiler)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    emoji = data.load(data.fetch(args.work))
    vae = AutoencoderKL.from_pretrained(args.folder / "vae").float().eval()
    latents = train.normalised_latents(vae, emoji, 64)
    tokenizer = CLIPTokenizerFast.from_pretrained(args.folder / "tokenizer")
    model = torch.nn.ModuleDict(
        {
            "text": CLIPTextModelWithProjection.from_pretrained(args.folder / "text_encoder").float(),
            "image": SD3Transformer2DModel.from_pretrained(args.folder / "transformer").float(),
        }
    )
    network = torch.compile(model["image"]) if args.compile else model["image"]
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(transformer.EMA_DECAY), use_buffers=True
    )
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)

    def loss_of(step: int, generator: torch.Generator) -> torch.Tensor:
        picks, ids = train.drawn_batch(emoji, tokenizer, FIRST_STEP + step, emoji.favoured_weights, generator)
        with torch.autocast("cpu", torch.bfloat16):
            return transformer.loss(network, model["text"], latents[picks], ids, generator)

    train.run_stage(
        "refine",
        args.work / "refine.pt",
        args.steps,
        {"model": model, "average": average, "optimizer": optimizer},
        lambda step: train.warmup_cosine(step, args.steps, PEAK_LEARNING_RATE),
        loss_of,
        lambda: average.update_parameters(model),
    )
    shutil.copytree(args.folder, args.out, dirs_exist_ok=True)
    average.module["text"].to(torch.bfloat16).save_pretrained(args.out / "text_encoder")
    average.module["text"].save_pretrained(args.out / "text_encoder_2")
    average.module["image"].to(torch.bfloat16).save_pretrained(args.out / "transformer")
    print(f"wrote {args.out}", flush=True)


if __name__ == "__main__":
    main()
