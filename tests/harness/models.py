"""Tiny pipelines with random weights, in diffusers' format: exactness shows in them, fidelity does not."""

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizerFast,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

WIDTH = 32
"""Of the text encoder; two of them side by side make the joint width."""
CLIP_TOKENS = 8
PIXELS = 64


def save_tiny_sd3(folder: Path, heads: int = 4, text_tokens: int = 8, layers: int = 2) -> Path:
    """StableDiffusion3Pipeline without T5: 64 image tokens at 64 pixels, `CLIP_TOKENS + text_tokens` text tokens."""
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=layers,
        attention_head_dim=8,
        num_attention_heads=heads,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=8 * heads,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=32,
        qk_norm="rms_norm",
    )
    pipeline = StableDiffusion3Pipeline(
        transformer=_enliven(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_autoencoder(),
        text_encoder=CLIPTextModelWithProjection(_clip_config()),
        tokenizer=_clip_tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(_clip_config()),
        tokenizer_2=_clip_tokenizer(),
        text_encoder_3=None,
        tokenizer_3=None,
    )
    return _save(pipeline, folder, text_tokens)


def save_tiny_flux(folder: Path, heads: int = 4, text_tokens: int = 16, joint: int = 1, single: int = 1) -> Path:
    """FluxPipeline with a tiny T5: 64 image tokens at 64 pixels, `text_tokens` text tokens."""
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=joint,
        num_single_layers=single,
        attention_head_dim=16,
        num_attention_heads=heads,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
    )
    t5 = T5EncoderModel(
        T5Config(vocab_size=64, d_model=WIDTH, d_kv=8, d_ff=64, num_layers=1, num_heads=4, is_encoder_decoder=False)
    )
    pipeline = FluxPipeline(
        transformer=_enliven(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_autoencoder(),
        text_encoder=CLIPTextModel(_clip_config()),
        tokenizer=_clip_tokenizer(),
        text_encoder_2=t5,
        tokenizer_2=PreTrainedTokenizerFast(
            tokenizer_object=_words(), unk_token="<unk>", pad_token="<pad>", eos_token="<end>", model_max_length=512
        ),
    )
    return _save(pipeline, folder, text_tokens)


def _save(pipeline: StableDiffusion3Pipeline | FluxPipeline, folder: Path, text_tokens: int) -> Path:
    pipeline.save_pretrained(str(folder))
    (folder / "thinwire.json").write_text(json.dumps({"max_sequence_length": text_tokens}))
    return folder


def _enliven(transformer: torch.nn.Module) -> torch.nn.Module:
    """Fill the layers that are born zero, so that attention reaches the picture."""
    for parameter in transformer.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=1.0 / parameter.shape[1] ** 0.5 if parameter.ndim == 2 else 0.1)
    return transformer


def _autoencoder(levels: int = 3) -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(8,) * levels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=PIXELS,
        shift_factor=0.0,
        scaling_factor=1.0,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def _clip_config() -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=64,
        hidden_size=WIDTH,
        intermediate_size=64,
        projection_dim=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=CLIP_TOKENS,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )


def _words() -> Tokenizer:
    vocabulary = {"<unk>": 0, "<start>": 1, "<end>": 2, "<pad>": 3}
    vocabulary |= {
        word: 4 + number for number, word in enumerate(["a", "red", "blue", "heart", "rocket", "pizza", "face", "of"])
    }
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def _clip_tokenizer() -> CLIPTokenizerFast:
    bpe = Tokenizer(
        models.BPE(
            vocab={"<unk>": 0, "<start>": 1, "<end>": 2} | {letter: 3 + n for n, letter in enumerate("abcdefghijklm")},
            merges=[],
            unk_token="<unk>",
        )
    )
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    bpe.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 2)]
    )
    return CLIPTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<start>",
        eos_token="<end>",
        pad_token="<end>",
        unk_token="<unk>",
        model_max_length=CLIP_TOKENS,
    )
