"""The upscaler: a conditional VAE p(HR | LR, z), nearly all of it at the small picture's resolution.

Conditional VAE: Sohn et al., "Learning Structured Output Representation using Deep Conditional Generative Models",
NeurIPS 2015, eq. 4. Sub-pixel output: Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient
Sub-Pixel Convolutional Neural Network", CVPR 2016. Residual blocks without normalisation: Lim et al., "Enhanced Deep
Residual Networks for Single Image Super-Resolution", CVPR workshops 2017.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from vaert.resample import axis_matrix

PIXEL_MAX = 255.0
BASE_PAD = 2  # small pixels that the cubic kernel reaches over an edge
SLOPE = 0.01
LOG_STD_MIN, LOG_STD_MAX = -7.0, 2.0


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


class Gaussian(NamedTuple):
    """Diagonal Gaussian: mean and log of the standard deviation, one shape."""

    mean: Tensor
    log_std: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Mean + standard deviation * noise, same shape."""
        return self.mean + torch.exp(self.log_std) * noise

    def divergence(self, other: Gaussian) -> Tensor:
        """KL(self || other) of every element in nats, same shape."""
        ratio = torch.exp(2 * (self.log_std - other.log_std))
        distance = ((self.mean - other.mean) * torch.exp(-other.log_std)).square()
        return 0.5 * (ratio + distance - 1) - self.log_std + other.log_std


def bicubic_kernel(scale: int) -> Tensor:
    """Bicubic enlarging as a convolution: (3 scale^2, 1, 5, 5), groups=3, ahead of a pixel shuffle by `scale`.

    Matches `vaert.resample.upscale` before rounding, if the edges are repeated by BASE_PAD.
    """
    side = 2 * BASE_PAD + 1
    rows = torch.from_numpy(axis_matrix(2 * side + 1, (2 * side + 1) * scale)).float()
    middle = rows[side * scale : (side + 1) * scale, side - BASE_PAD : side + BASE_PAD + 1]  # (scale, 5)
    kernel = torch.einsum("ai,bj->abij", middle, middle).reshape(scale**2, 1, side, side)
    return kernel.repeat(3, 1, 1, 1)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a skip, (N, C, H, W) -> same; the identity before training."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        for parameter in self.second.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Input + branch."""
        y: Tensor = x + self.second(F.leaky_relu(self.first(x), SLOPE))
        return y


class Posterior(nn.Module):
    """q(z | HR, LR) from what the bicubic base misses, (N, 3, s H, s W), and features, (N, C, H, W)."""

    def __init__(self, c: UpscalerConfig) -> None:
        super().__init__()
        self.missing = nn.Conv2d(3 * c.scale**2, c.posterior, 3, padding=1)
        self.features = nn.Conv2d(c.channels, c.posterior, 1)
        self.block = ResidualBlock(c.posterior)
        self.out = nn.Conv2d(c.posterior, 2 * c.latents, 1)
        self.scale = c.scale

    def forward(self, missing: Tensor, features: Tensor, prior: Gaussian) -> Gaussian:
        """Moments of z, (N, latents, H, W) each; the mean is that of the prior before training."""
        hidden = self.missing(F.pixel_unshuffle(8 * missing, self.scale)) + self.features(features)
        mean, log_std = self.out(F.leaky_relu(self.block(hidden), SLOPE)).float().chunk(2, 1)
        return Gaussian(prior.mean + mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX))


class UpscalerVAE(nn.Module):
    """p(HR | LR, z): `features` once, then `prior` for z and `decode`. Pixels are 0..1, any size from 1x1."""

    base_kernel: Tensor

    def __init__(self, config: UpscalerConfig) -> None:
        super().__init__()
        c = self.config = config
        self.head = nn.Conv2d(3, c.channels, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(c.channels) for _ in range(c.blocks)))
        self.moments = nn.Conv2d(c.channels, 2 * c.latents, 1)
        self.mix = nn.Conv2d(c.channels, c.channels, 1)
        self.inject = nn.Conv2d(c.latents, c.channels, 1, bias=False)
        self.tail = nn.Conv2d(c.channels, 3 * c.scale**2, 3, padding=1)
        self.posterior = Posterior(c)
        self.register_buffer("base_kernel", bicubic_kernel(c.scale), persistent=False)
        for parameter in self.tail.parameters():  # starts as bicubic
            nn.init.zeros_(parameter)

    def base(self, small: Tensor) -> Tensor:
        """Bicubic enlarging ahead of the pixel shuffle, (N, 3, H, W) -> (N, 3 scale^2, H, W)."""
        padded = F.pad(small, (BASE_PAD,) * 4, mode="replicate")
        return F.conv2d(padded, self.base_kernel, groups=3)

    def features(self, small: Tensor) -> Tensor:
        """What prior and decoder know of the small picture, (N, 3, H, W) -> (N, channels, H, W)."""
        y: Tensor = self.body(self.head(small - 0.5))
        return y

    def prior(self, features: Tensor) -> Gaussian:
        """p(z | LR), (N, latents, H, W)."""
        mean, log_std = self.moments(features).float().chunk(2, 1)
        return Gaussian(mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX))

    def decode(self, base: Tensor, features: Tensor, z: Tensor) -> Tensor:
        """Large picture, not clamped, (N, 3, scale H, scale W), of base, features and z."""
        hidden = F.leaky_relu(self.mix(features) + self.inject(z), SLOPE) + features
        return F.pixel_shuffle(self.tail(hidden).float() + base, self.config.scale)

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
        small = pixels.permute(0, 3, 1, 2).float() / PIXEL_MAX
        large = self.model(small, noise.permute(0, 3, 1, 2))
        return torch.round(large * PIXEL_MAX).permute(0, 2, 3, 1).to(torch.uint8)
