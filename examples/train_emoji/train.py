"""Train the in-box model from nothing: `python -m examples.train_emoji.train --work DIR --out FOLDER`.

Every stage is seeded, writes a checkpoint every few minutes and goes on from it when called again.
Stages: autoencoder, transformer (half-size, then full-size latents), decoder once more, export.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
from transformers import CLIPTokenizerFast

from examples.train_emoji import autoencoder, data, transformer

SEED = 20_26
CHECKPOINT_SECONDS = 180
WARMUP_STEPS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/train_emoji"), help="data and checkpoints")
    parser.add_argument("--out", type=Path, default=Path("build/train_emoji/emoji"), help="the pipeline's folder")
    parser.add_argument("--half-steps", type=int, default=6900, help="steps on 8 x 8 latents")
    parser.add_argument("--full-steps", type=int, default=520, help="steps on 16 x 16 latents")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    emoji = data.load(data.fetch(args.work))
    vae = train_autoencoder(emoji, args.work / "autoencoder.pt")
    latents = {size: normalised_latents(vae, emoji, size) for size in (32, 64)}
    trained = train_transformer(emoji, latents, args.half_steps, args.full_steps, args.work / "transformer.pt")
    polish_decoder(vae, emoji, args.work / "decoder.pt")
    export(vae, trained, args.out)


def pixels(emoji: data.EmojiData, size: int = 64) -> torch.Tensor:
    """Pictures in [-1, 1], fp32, (N, 3, size, size)."""
    full = emoji.pixels_NCHW.float() / 127.5 - 1
    return full if size == 64 else torch.nn.functional.avg_pool2d(full, 64 // size)


def warmup_cosine(step: int, total: int, peak: float) -> float:
    """Learning rate of `step`: up for `WARMUP_STEPS`, then a cosine down to a hundredth of the peak."""
    up = min(1.0, (step + 1) / WARMUP_STEPS)
    return peak * up * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / total)))


def transformer_learning_rate(step: int, half_steps: int, full_steps: int) -> float:
    """Most of a cosine, a lower one from `RESTART_STEP` on, and one for full-size latents."""
    if step < transformer.RESTART_STEP:
        return warmup_cosine(step, 6 * transformer.RESTART_STEP // 5, transformer.PEAK_LEARNING_RATE)
    if step < half_steps:
        begun = transformer.RESTART_STEP
        return warmup_cosine(step - begun, half_steps - begun, 0.7 * transformer.PEAK_LEARNING_RATE)
    return warmup_cosine(step - half_steps, full_steps, 0.5 * transformer.PEAK_LEARNING_RATE)


class Progress:
    """One line every ten seconds: step, loss, pace and time left."""

    def __init__(self, stage: str, total: int) -> None:
        self.stage, self.total = stage, total
        self.begun = self.shown = time.monotonic()
        self.first_step: int | None = None
        self.mean_loss: float | None = None

    def update(self, step: int, loss: float) -> None:
        self.first_step = step if self.first_step is None else self.first_step
        self.mean_loss = loss if self.mean_loss is None else 0.98 * self.mean_loss + 0.02 * loss
        now = time.monotonic()
        if now - self.shown < 10:
            return
        self.shown = now
        pace = (now - self.begun) / (step - self.first_step + 1)
        left = pace * (self.total - step - 1) / 60
        print(
            f"{self.stage} {step + 1}/{self.total} loss {self.mean_loss:.4f} {pace:.2f} s/step, {left:.0f} min left",
            flush=True,
        )


def save(path: Path, state: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def run_stage(
    name: str,
    checkpoint: Path,
    steps: int,
    holders: dict[str, Any],
    learning_rate: Callable[[int], float],
    loss_of: Callable[[int, torch.Generator], torch.Tensor],
    after_step: Callable[[], None] = lambda: None,
) -> bool:
    """Train from the checkpoint on, or from the start; returns whether there was anything left to do.

    `holders` are what a checkpoint holds, anything with a state_dict; "model" and "optimizer" are among them.
    """
    model, optimizer, first = holders["model"], holders["optimizer"], 0
    if checkpoint.exists():
        state = torch.load(checkpoint)
        first = state["step"]
        for key, holder in holders.items():
            holder.load_state_dict(state[key])
    progress, saved = Progress(name, steps), time.monotonic()
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        loss = loss_of(step, torch.Generator().manual_seed(SEED + step))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        after_step()
        progress.update(step, loss.item())
        if step + 1 == steps or time.monotonic() - saved > CHECKPOINT_SECONDS:
            save(checkpoint, {key: holder.state_dict() for key, holder in holders.items()} | {"step": step + 1})
            saved = time.monotonic()
    return first < steps


def train_autoencoder(emoji: data.EmojiData, checkpoint: Path) -> AutoencoderKL:
    torch.manual_seed(SEED)
    model = autoencoder.build()
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=0.01)
    everything = pixels(emoji)

    def loss_of(step: int, generator: torch.Generator) -> torch.Tensor:
        batch = everything[torch.randint(len(everything), (autoencoder.BATCH,), generator=generator)]
        return autoencoder.loss(model, autoencoder.half_size(batch, step, generator))

    run_stage(
        "autoencoder",
        checkpoint,
        autoencoder.STEPS,
        {"model": model, "optimizer": optimizer},
        lambda step: warmup_cosine(step, autoencoder.STEPS, autoencoder.PEAK_LEARNING_RATE),
        loss_of,
    )
    return model.eval()


def polish_decoder(model: AutoencoderKL, emoji: data.EmojiData, checkpoint: Path) -> None:
    """Train the decoder on, for the latents as they are: what the transformer learned stays true."""
    optimizer = torch.optim.AdamW(model.decoder.parameters(), betas=(0.9, 0.99), weight_decay=0.01)
    everything = pixels(emoji)

    def loss_of(step: int, generator: torch.Generator) -> torch.Tensor:
        batch = everything[torch.randint(len(everything), (autoencoder.BATCH,), generator=generator)]
        batch = autoencoder.half_size(batch, 0, generator)
        with torch.no_grad():
            latents = model.encode(batch).latent_dist.sample()
        return autoencoder.reconstruction_loss(model.decode(latents).sample, batch)

    trained = run_stage(
        "decoder",
        checkpoint,
        autoencoder.POLISH_STEPS,
        {"model": model.decoder, "optimizer": optimizer},
        lambda step: warmup_cosine(step, autoencoder.POLISH_STEPS, autoencoder.PEAK_LEARNING_RATE / 2),
        loss_of,
    )
    if trained:
        print(f"autoencoder PSNR {autoencoder.psnr(model, everything[:512]):.1f} dB", flush=True)


def normalised_latents(vae: AutoencoderKL, emoji: data.EmojiData, size: int) -> torch.Tensor:
    """Latents of the captioned pictures, by one mean and deviation (those of full size, kept in the config)."""
    if size == 64 or not vae.config.scaling_factor or vae.config.shift_factor is None:
        full = autoencoder.encode(vae, pixels(emoji)[: len(emoji.captions)])
        vae.register_to_config(shift_factor=float(full.mean()), scaling_factor=float(1 / full.std()))
    latents = autoencoder.encode(vae, pixels(emoji, size)[: len(emoji.captions)])
    return (latents - vae.config.shift_factor) * vae.config.scaling_factor


def learned_tokenizer(emoji: data.EmojiData, folder: Path) -> CLIPTokenizerFast:
    """The tokenizer in `folder`, learned first if there is none: ties are broken by chance, so it is learned once."""
    if not folder.exists():
        transformer.build_tokenizer([name for names in emoji.names for name in names]).save_pretrained(folder)
    return CLIPTokenizerFast.from_pretrained(folder)


def drawing_weights(emoji: data.EmojiData, step: int) -> torch.Tensor:
    """How often each captioned picture is drawn in a step."""
    if step < transformer.CATEGORY_STEP:
        return torch.ones_like(emoji.weights)
    return emoji.weights if step < transformer.FAVOURITES_STEP else emoji.favoured_weights


def drawn_batch(
    emoji: data.EmojiData, tokenizer: CLIPTokenizerFast, step: int, weights: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which pictures a step sees (batch,), and the tokens of a caption of each (batch, 16), a tenth of them empty."""
    choice = random.Random(SEED + step)
    picks = torch.multinomial(weights, transformer.BATCH, replacement=True, generator=generator)
    texts = [
        "" if choice.random() < transformer.EMPTY_CAPTION_SHARE else choice.choice(emoji.captions[i])
        for i in picks.tolist()
    ]
    ids = tokenizer(
        texts, padding="max_length", max_length=transformer.TEXT_TOKENS, truncation=True, return_tensors="pt"
    ).input_ids
    return picks, ids


def train_transformer(
    emoji: data.EmojiData, latents: dict[int, torch.Tensor], half_steps: int, full_steps: int, checkpoint: Path
) -> dict[str, Any]:
    """Returns the averaged (EMA) text encoder and transformer and the tokenizer."""
    torch.manual_seed(SEED)
    tokenizer = learned_tokenizer(emoji, checkpoint.with_name("tokenizer"))
    model = torch.nn.ModuleDict({"text": transformer.build_text_encoder(), "image": transformer.build_transformer()})
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(transformer.EMA_DECAY), use_buffers=True
    )
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)

    def loss_of(step: int, generator: torch.Generator) -> torch.Tensor:
        picks, ids = drawn_batch(emoji, tokenizer, step, drawing_weights(emoji, step), generator)
        if step >= half_steps:
            return transformer.loss(model["image"], model["text"], latents[64][picks], ids, generator)
        with transformer.half_size_positions(model["image"]):
            return transformer.loss(model["image"], model["text"], latents[32][picks], ids, generator)

    run_stage(
        "transformer",
        checkpoint,
        half_steps + full_steps,
        {"model": model, "average": average, "optimizer": optimizer},
        lambda step: transformer_learning_rate(step, half_steps, full_steps),
        loss_of,
        lambda: average.update_parameters(model),
    )
    return {"tokenizer": tokenizer, "text": average.module["text"].eval(), "image": average.module["image"].eval()}


def export(vae: AutoencoderKL, trained: dict[str, Any], out: Path) -> None:
    """Write the diffusers folder in bf16, with null in T5's place."""
    pipeline = StableDiffusion3Pipeline(
        transformer=trained["image"],
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=vae,
        text_encoder=trained["text"],
        tokenizer=trained["tokenizer"],
        text_encoder_2=trained["text"],
        tokenizer_2=trained["tokenizer"],
        text_encoder_3=None,
        tokenizer_3=None,
    )
    pipeline.to(torch.bfloat16)
    pipeline.save_pretrained(out)
    (out / "thinwire.json").write_text(json.dumps({"max_sequence_length": transformer.TEXT_TOKENS}) + "\n")
    print(f"wrote {out}", flush=True)


if __name__ == "__main__":
    main()
