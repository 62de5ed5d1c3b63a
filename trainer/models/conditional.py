"""What the conditional VAEs of pictures share: p(x | condition, z) with z on the grid of the condition's features.

Conditional VAE: Sohn et al., "Learning Structured Output Representation using Deep Conditional Generative Models",
NeurIPS 2015, eq. 4. Residual blocks without normalisation: Lim et al., "Enhanced Deep Residual Networks for Single
Image Super-Resolution", CVPR workshops 2017.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

PIXEL_MAX = 255.0
SLOPE = 0.01
LOG_STD_MIN, LOG_STD_MAX = -7.0, 2.0


class Shape(Protocol):
    """What the shared parts must know of a config: `scale` output samples per feature along each axis."""

    @property
    def scale(self) -> int:
        """Output samples per feature along each axis."""

    @property
    def channels(self) -> int:
        """Of the features."""

    @property
    def latents(self) -> int:
        """Channels of z."""

    @property
    def posterior(self) -> int:
        """Width of q(z | x, condition), which only training runs."""


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
    """q(z | x, condition) from what the base misses of x, (N, 3, s H, s W), and features, (N, C, H, W)."""

    def __init__(self, c: Shape) -> None:
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


class Conditional(nn.Module):
    """The head of a conditional VAE: prior, posterior, and the decoder from features and z to what the base misses."""

    def __init__(self, c: Shape) -> None:
        super().__init__()
        self.scale = c.scale
        self.moments = nn.Conv2d(c.channels, 2 * c.latents, 1)
        self.mix = nn.Conv2d(c.channels, c.channels, 1)
        self.inject = nn.Conv2d(c.latents, c.channels, 1, bias=False)
        self.tail = nn.Conv2d(c.channels, 3 * c.scale**2, 3, padding=1)
        self.posterior = Posterior(c)
        for parameter in self.tail.parameters():  # starts as the base
            nn.init.zeros_(parameter)

    def prior(self, features: Tensor) -> Gaussian:
        """p(z | condition), (N, latents, H, W), of features (N, channels, H, W)."""
        mean, log_std = self.moments(features).float().chunk(2, 1)
        return Gaussian(mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX))

    def missing(self, features: Tensor, z: Tensor) -> Tensor:
        """What is to be added to the base, ahead of the pixel shuffle, float32 (N, 3 scale^2, H, W)."""
        hidden = F.leaky_relu(self.mix(features) + self.inject(z), SLOPE) + features
        y: Tensor = self.tail(hidden).float()
        return y
