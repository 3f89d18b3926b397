"""Tiny pipelines of the other families, with random weights, in diffusers' format."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizerFast,
    CLIPTextModel,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from tests.harness.models import WIDTH, _autoencoder, _clip_config, _clip_tokenizer, _enliven, _words


def save_tiny_pixart(folder: Path, pipeline_class: Any, heads: int = 4, text_tokens: int = 8) -> Path:
    """PixArt of either kind: 64 image tokens at 64 pixels."""
    torch.manual_seed(0)
    transformer = PixArtTransformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=heads,
        cross_attention_dim=8 * heads,
        caption_channels=WIDTH,
        use_additional_conditions=False,
    )
    pipeline = pipeline_class(
        transformer=_enliven(transformer),
        scheduler=DPMSolverMultistepScheduler(),
        vae=_autoencoder(),
        text_encoder=t5(),
        tokenizer=t5_tokenizer(text_tokens),
    )
    return save(pipeline, folder, text_tokens)


def save_tiny_hunyuan_dit(folder: Path, heads: int = 4) -> Path:
    """HunyuanDiT of four layers, with a skip between halves; upstream takes a latent for eight pixels."""
    torch.manual_seed(0)
    text, text_t5 = 6, 10
    transformer = HunyuanDiT2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        hidden_size=16 * heads,
        attention_head_dim=16,
        num_attention_heads=heads,
        num_layers=4,
        mlp_ratio=2.0,
        cross_attention_dim=WIDTH,
        cross_attention_dim_t5=WIDTH,
        pooled_projection_dim=16,
        text_len=text,
        text_len_t5=text_t5,
        use_style_cond_and_image_meta_size=False,
    )
    vocabulary = folder.parent / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "heart"]))
    bert = BertConfig(
        vocab_size=16,
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=text,
    )
    pipeline = HunyuanDiTPipeline(
        transformer=_enliven(transformer),
        scheduler=DDPMScheduler(),
        vae=_autoencoder(levels=4),
        text_encoder=BertModel(bert),
        tokenizer=BertTokenizerFast(str(vocabulary), model_max_length=text),
        text_encoder_2=t5(),
        tokenizer_2=t5_tokenizer(text_t5),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return save(pipeline, folder, text_t5)


def save_tiny_cogvideox(folder: Path, heads: int = 4, text_tokens: int = 8, *, rotary: bool = True) -> Path:
    """CogVideoX: 16 image tokens a latent frame at 32 pixels, two latent frames of five."""
    torch.manual_seed(0)
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=heads,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=WIDTH,
        num_layers=2,
        sample_width=16,
        sample_height=16,
        sample_frames=5,
        patch_size=2,
        temporal_compression_ratio=4,
        max_text_seq_length=text_tokens,
        use_rotary_positional_embeddings=rotary,
    )
    vae = AutoencoderKLCogVideoX(
        in_channels=3,
        out_channels=3,
        down_block_types=("CogVideoXDownBlock3D",) * 3,
        up_block_types=("CogVideoXUpBlock3D",) * 3,
        block_out_channels=(8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
    )
    pipeline = CogVideoXPipeline(
        transformer=_enliven(transformer),
        scheduler=CogVideoXDDIMScheduler(),
        vae=vae,
        text_encoder=t5(),
        tokenizer=t5_tokenizer(text_tokens),
    )
    return save(pipeline, folder, text_tokens)


def save_tiny_wan(folder: Path, heads: int = 4, text_tokens: int = 8) -> Path:
    """Wan: 16 tokens a latent frame at 64 pixels, three latent frames of nine."""
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=heads,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=WIDTH,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )
    pipeline = WanPipeline(
        transformer=_enliven(transformer),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
        ),
        vae=AutoencoderKLWan(
            base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
        ),
        text_encoder=UMT5EncoderModel(
            UMT5Config(
                vocab_size=64,
                d_model=WIDTH,
                d_kv=8,
                d_ff=64,
                num_layers=1,
                num_heads=4,
                is_encoder_decoder=False,
            )
        ),
        tokenizer=t5_tokenizer(text_tokens),
    )
    return save(pipeline, folder, text_tokens)


def save_tiny_hunyuan_video(folder: Path, heads: int = 4, text_tokens: int = 24) -> Path:
    """HunyuanVideo: 16 tokens a latent frame at 64 pixels, three latent frames of nine; seven tokens and the prompt's.

    CLIP reads 77 tokens of a prompt, whatever the tokenizer's own limit.
    """
    torch.manual_seed(0)
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=heads,
        attention_head_dim=12,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        patch_size=2,
        patch_size_t=1,
        text_embed_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        rope_axes_dim=(4, 4, 4),
    )
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
    )
    llama = LlamaConfig(
        vocab_size=64,
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        pad_token_id=3,
    )
    clip = _clip_config()
    clip.max_position_embeddings = 77
    pipeline = HunyuanVideoPipeline(
        transformer=_enliven(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        vae=vae,
        text_encoder=LlamaModel(llama),
        tokenizer=t5_tokenizer(256),
        text_encoder_2=CLIPTextModel(clip),
        tokenizer_2=_clip_tokenizer(),
    )
    return save(pipeline, folder, text_tokens)


def t5() -> T5EncoderModel:
    """Return a T5 of one layer."""
    return T5EncoderModel(
        T5Config(vocab_size=64, d_model=WIDTH, d_kv=8, d_ff=64, num_layers=1, num_heads=4, is_encoder_decoder=False)
    )


def t5_tokenizer(length: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer of a dozen words."""
    return PreTrainedTokenizerFast(
        tokenizer_object=_words(), unk_token="<unk>", pad_token="<pad>", eos_token="<end>", model_max_length=length
    )


def save(pipeline: Any, folder: Path, text_tokens: int) -> Path:
    """Save a pipeline with the text length that it was made for."""
    pipeline.save_pretrained(str(folder))
    (folder / "thinwire.json").write_text(json.dumps({"max_sequence_length": text_tokens}))
    return folder


SAVE: dict[str, Callable[[Path], Path]] = {
    "PixArtAlphaPipeline": lambda folder: save_tiny_pixart(folder, PixArtAlphaPipeline),
    "PixArtSigmaPipeline": lambda folder: save_tiny_pixart(folder, PixArtSigmaPipeline),
    "HunyuanDiTPipeline": save_tiny_hunyuan_dit,
    "CogVideoXPipeline": save_tiny_cogvideox,
    "WanPipeline": save_tiny_wan,
    "HunyuanVideoPipeline": save_tiny_hunyuan_video,
}


def frames_of(pipeline: str) -> int:
    """Return how many frames a tiny model is asked for, 0 for a picture."""
    return 9 if pipeline in VIDEO else 0


VIDEO = {"CogVideoXPipeline", "HunyuanVideoPipeline", "WanPipeline"}
