"""A convolutional VAE of digits: an encoder that pools to 7x7, a decoder that up-samples from there."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from vaert.trainer.models.digits import SIDE, DigitConfig, DigitVAE, split_moments

SLOPE = 0.1  # of the activation below zero


@dataclass(frozen=True)
class ConvConfig(DigitConfig):
    """`channels` at 28x28 and 14x14, twice as many at 7x7."""

    latents: int = 40
    hidden: int = 256
    channels: int = 24


class Residual(nn.Module):
    """Two 3x3 convolutions beside the identity, (N, C, H, W) -> same; starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        assert self.second.bias is not None
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both paths."""
        y: Tensor = x + self.second(F.leaky_relu(self.first(F.leaky_relu(x, SLOPE)), SLOPE))
        return y


class ConvVAE(DigitVAE):
    """See the module."""

    def __init__(self, config: ConvConfig) -> None:
        super().__init__(config)
        c, side = config.channels, SIDE // 4
        self.encoder = nn.Sequential(
            nn.Conv2d(1, c, 3, padding=1),
            nn.LeakyReLU(SLOPE),
            nn.AvgPool2d(2),
            nn.Conv2d(c, c, 3, padding=1),
            Residual(c),
            nn.LeakyReLU(SLOPE),
            nn.AvgPool2d(2),
            nn.Conv2d(c, 2 * c, 3, padding=1),
            Residual(2 * c),
            nn.LeakyReLU(SLOPE),
            nn.Flatten(),
            nn.Linear(2 * c * side * side, config.hidden),
            nn.LeakyReLU(SLOPE),
            nn.Linear(config.hidden, 2 * config.latents),
        )
        self.decoder = nn.Sequential(
            nn.Linear(config.latents, config.hidden),
            nn.LeakyReLU(SLOPE),
            nn.Linear(config.hidden, 2 * c * side * side),
            nn.Unflatten(1, (2 * c, side, side)),
            Residual(2 * c),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(2 * c, c, 3, padding=1),
            nn.Upsample(scale_factor=2),
            Residual(c),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(c, c, 3, padding=1),
            nn.Upsample(scale_factor=2),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(c, 1, 3, padding=1),
        )

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `DigitVAE.encode`."""
        return split_moments(self.encoder(x))

    def decode(self, z: Tensor) -> Tensor:
        """See `DigitVAE.decode`."""
        logits: Tensor = self.decoder(z)
        return logits
