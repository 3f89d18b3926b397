"""Stage 1: the autoencoder, 64 x 64 x 3 pixels to 16 x 16 x 8 latents."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

STEPS = 3600
POLISH_STEPS = 2500
BATCH = 16
PEAK_LEARNING_RATE = 1e-3
KL_WEIGHT = 1e-4


def build() -> AutoencoderKL:
    """1.6 M parameters, downsampling factor 4, no attention in the middle."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=16,
        sample_size=64,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def half_size(pixels_BCHW: torch.Tensor, step: int, generator: torch.Generator) -> torch.Tensor:
    """Four times cheaper batches of 32 x 32: crops of whole pictures, and every fourth step whole ones scaled down."""
    if step % 4 == 3:
        return F.avg_pool2d(pixels_BCHW, 2)
    top, left = (int(torch.randint(33, (1,), generator=generator)) for _ in "yx")
    return pixels_BCHW[..., top : top + 32, left : left + 32]


def loss(model: AutoencoderKL, pixels_BCHW: torch.Tensor) -> torch.Tensor:
    """`reconstruction_loss` + a little KL, on pixels in [-1, 1] of shape (batch, 3, H, W)."""
    posterior = model.encode(pixels_BCHW).latent_dist
    decoded = model.decode(posterior.sample()).sample
    return reconstruction_loss(decoded, pixels_BCHW) + KL_WEIGHT * posterior.kl().mean()


def reconstruction_loss(decoded_BCHW: torch.Tensor, pixels_BCHW: torch.Tensor) -> torch.Tensor:
    """L1 + MSE + L1 of gradients."""
    difference = decoded_BCHW - pixels_BCHW
    edges = (difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()) / 2
    return difference.abs().mean() + F.mse_loss(decoded_BCHW, pixels_BCHW) + edges


@torch.no_grad()
def encode(model: AutoencoderKL, pixels_NCHW: torch.Tensor) -> torch.Tensor:
    """Latent means of pixels in [-1, 1]: (N, 8, H / 4, W / 4), fp32."""
    return torch.cat([model.encode(batch).latent_dist.mean.float() for batch in pixels_NCHW.split(64)])


@torch.no_grad()
def psnr(model: AutoencoderKL, pixels_NCHW: torch.Tensor) -> float:
    """Mean PSNR in dB of the reconstruction over pixels in [-1, 1] (peak 2)."""
    decoded = torch.cat([model(batch).sample.float() for batch in pixels_NCHW.split(64)]).clamp(-1, 1)
    mse = (decoded - pixels_NCHW).square().mean(dim=(1, 2, 3))
    return float((10 * torch.log10(4 / mse)).mean())
