"""Stage 2: text encoder and transformer, trained jointly by rectified flow.

The first part of the run sees latents of half the size (8 x 8), four times cheaper, at every second
position of the full grid, so that a token's place in the picture means the same in both parts.
What the pipeline does with text is done here too: the one CLIP encoder serves as both, its states
side by side, and zeros stand in T5's place.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import SD3Transformer2DModel
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizerFast

TEXT_TOKENS = 16
TEXT_WIDTH = 128
VOCABULARY = 1500
BATCH = 32
PEAK_LEARNING_RATE = 1e-3
EMPTY_CAPTION_SHARE = 0.1
EMA_DECAY = 0.999
# Before the first of these steps every picture is drawn alike, then by the weight of its category, from the second on
# favourites are preferred.
CATEGORY_STEP = 1400
FAVOURITES_STEP = 4600
# Where the learning rate rises again, still on latents of half the size.
RESTART_STEP = 5300
GRID = 16


def build_tokenizer(captions: list[str]) -> CLIPTokenizerFast:
    """Byte-pair encoding in CLIP's manner, trained on the captions, padded to 16 tokens."""
    bpe = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>", continuing_subword_prefix=""))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    bpe.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<|startoftext|>", "<|endoftext|>"], end_of_word_suffix="</w>"
    )
    bpe.train_from_iterator(captions, trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>", special_tokens=[("<|startoftext|>", 0), ("<|endoftext|>", 1)]
    )
    return CLIPTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        model_max_length=TEXT_TOKENS,
    )


def build_text_encoder() -> CLIPTextModelWithProjection:
    """0.6 M parameters: 2 layers of width 128, 16 positions."""
    config = CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TEXT_TOKENS,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return CLIPTextModelWithProjection(config)


def build_transformer() -> SD3Transformer2DModel:
    """7.8 M parameters: 6 layers, 8 heads of 24, one token per latent pixel."""
    return SD3Transformer2DModel(
        sample_size=GRID,
        patch_size=1,
        in_channels=8,
        out_channels=8,
        num_layers=6,
        attention_head_dim=24,
        num_attention_heads=8,
        joint_attention_dim=2 * TEXT_WIDTH,
        caption_projection_dim=192,
        pooled_projection_dim=2 * TEXT_WIDTH,
        pos_embed_max_size=GRID,
        qk_norm="rms_norm",
    )


@contextmanager
def half_size_positions(transformer: SD3Transformer2DModel) -> Iterator[None]:
    """Within the block the transformer takes 8 x 8 latents and puts them at every second position."""
    embed = transformer.pos_embed
    table = embed.pos_embed

    def every_second(height: int, width: int) -> torch.Tensor:
        grid = table.reshape(1, GRID, GRID, -1)
        return grid[:, :: GRID // height, :: GRID // width].reshape(1, height * width, -1)

    embed.cropped_pos_embed = every_second
    try:
        yield
    finally:
        del embed.cropped_pos_embed


def encode_text(encoder: CLIPTextModelWithProjection, ids_BL: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (batch, 16) to the pipeline's joint states (batch, 32, 256) and pooled vector (batch, 256)."""
    out = encoder(ids_BL, output_hidden_states=True)
    states = out.hidden_states[-2]
    states = torch.cat([states, states], dim=-1)
    return torch.cat([states, torch.zeros_like(states)], dim=1), torch.cat([out.text_embeds, out.text_embeds], dim=-1)


def loss(
    transformer: SD3Transformer2DModel,
    encoder: CLIPTextModelWithProjection,
    latents_BCHW: torch.Tensor,
    ids_BL: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """Rectified flow (Esser et al. 2024, section 3): MSE of the velocity noise - latent, logit-normal times."""
    noise = torch.randn(latents_BCHW.shape, generator=generator)
    time = torch.sigmoid(torch.randn(len(latents_BCHW), generator=generator))
    mixed = torch.lerp(latents_BCHW, noise, time[:, None, None, None])
    states, pooled = encode_text(encoder, ids_BL)
    velocity = transformer(
        hidden_states=mixed,
        timestep=time * 1000,
        encoder_hidden_states=states,
        pooled_projections=pooled,
        return_dict=False,
    )[0]
    return (velocity.float() - (noise - latents_BCHW)).square().mean()
