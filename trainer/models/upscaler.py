"""The upscaler: a conditional VAE p(HR | LR, z), nearly all of it at the small picture's resolution.

Sub-pixel output: Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient
Sub-Pixel Convolutional Neural Network", CVPR 2016.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from vaert.resample import axis_matrix
from vaert.trainer.models.conditional import PIXEL_MAX, Conditional, ResidualBlock

BASE_PAD = 2  # small pixels that the cubic kernel reaches over an edge


@dataclass(frozen=True)
class UpscalerConfig:
    """Shape of one upscaler."""

    scale: int = 4
    channels: int = 64
    blocks: int = 5
    latents: int = 8  # channels of z, one vector per small pixel
    posterior: int = 64  # width of q(z | HR, LR), which only training runs

    @property
    def halo(self) -> int:
        """Small pixels on each side that a large pixel depends on, beside its own."""
        return 2 * self.blocks + 2


PROFILES = {"upscale-x4": UpscalerConfig(), "upscale-x2": UpscalerConfig(scale=2)}


def bicubic_kernel(scale: int) -> Tensor:
    """Bicubic enlarging as a convolution: (3 scale^2, 1, 5, 5), groups=3, ahead of a pixel shuffle by `scale`.

    Matches `vaert.resample.upscale` before rounding, if the edges are repeated by BASE_PAD.
    """
    side = 2 * BASE_PAD + 1
    rows = torch.from_numpy(axis_matrix(2 * side + 1, (2 * side + 1) * scale)).float()
    middle = rows[side * scale : (side + 1) * scale, side - BASE_PAD : side + BASE_PAD + 1]  # (scale, 5)
    kernel = torch.einsum("ai,bj->abij", middle, middle).reshape(scale**2, 1, side, side)
    return kernel.repeat(3, 1, 1, 1)


class UpscalerVAE(Conditional):
    """p(HR | LR, z): `features` once, then `prior` for z and `decode`. Pixels are 0..1, any size from 1x1."""

    base_kernel: Tensor

    def __init__(self, config: UpscalerConfig) -> None:
        super().__init__(config)
        c = self.config = config
        self.head = nn.Conv2d(3, c.channels, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(c.channels) for _ in range(c.blocks)))
        self.register_buffer("base_kernel", bicubic_kernel(c.scale), persistent=False)

    def base(self, small: Tensor) -> Tensor:
        """Bicubic enlarging ahead of the pixel shuffle, (N, 3, H, W) -> (N, 3 scale^2, H, W)."""
        padded = F.pad(small, (BASE_PAD,) * 4, mode="replicate")
        return F.conv2d(padded, self.base_kernel, groups=3)

    def picture(self, base: Tensor) -> Tensor:
        """The base as a picture, (N, 3, scale H, scale W)."""
        return F.pixel_shuffle(base, self.scale)

    def features(self, small: Tensor) -> Tensor:
        """What prior and decoder know of the small picture, (N, 3, H, W) -> (N, channels, H, W)."""
        y: Tensor = self.body(self.head(small - 0.5))
        return y

    def decode(self, base: Tensor, features: Tensor, z: Tensor) -> Tensor:
        """Large picture, not clamped, (N, 3, scale H, scale W), of base, features and z."""
        return F.pixel_shuffle(self.missing(features, z) + base, self.scale)

    def forward(self, small: Tensor, noise: Tensor) -> Tensor:
        """Large picture 0..1 of a small one, (N, 3, H, W), and noise, (N, latents, H, W); zero noise: best PSNR."""
        features = self.features(small)
        large = self.decode(self.base(small), features, self.prior(features).sample(noise))
        return large.clamp(0, 1)


class UpscaleGraph(nn.Module):
    """`pixels` uint8 (N, H, W, 3) and `noise` float32 (N, H, W, latents) -> `large` uint8 (N, scale H, scale W, 3).

    The deployed form of `UpscalerVAE.forward`: any size from 1x1, zero noise for the best PSNR.
    """

    def __init__(self, model: UpscalerVAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor, noise: Tensor) -> Tensor:
        """Shapes as above."""
        return torch.round(self.levels(pixels, noise)).permute(0, 2, 3, 1).to(torch.uint8)

    def levels(self, pixels: Tensor, noise: Tensor) -> Tensor:
        """Pixels before rounding, (N, 3, scale H, scale W)."""
        small = pixels.float().permute(0, 3, 1, 2) / PIXEL_MAX
        large: Tensor = self.model(small, noise.permute(0, 3, 1, 2))
        return large * PIXEL_MAX
