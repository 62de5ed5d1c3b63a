"""The VAE of Kingma & Welling: 784 - 400 - latents and back, fully connected."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn as nn
from torch import Tensor

from vaert.trainer.models.digits import SIDE, DigitConfig, DigitVAE, split_moments


@dataclass(frozen=True)
class MlpConfig(DigitConfig):
    """One hidden layer of 400 units on each side; latent 2 can be drawn as a plane, 20 and 50 fit better."""

    latents: int = 2
    hidden: int = 400


class MlpVAE(DigitVAE):
    """See the module."""

    def __init__(self, config: MlpConfig) -> None:
        super().__init__(config)
        self.encoder = nn.Sequential(
            nn.Linear(SIDE * SIDE, config.hidden), nn.ReLU(), nn.Linear(config.hidden, 2 * config.latents)
        )
        self.decoder = nn.Sequential(
            nn.Linear(config.latents, config.hidden), nn.ReLU(), nn.Linear(config.hidden, SIDE * SIDE)
        )

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `DigitVAE.encode`."""
        return split_moments(self.encoder(x.flatten(1)))

    def decode(self, z: Tensor) -> Tensor:
        """See `DigitVAE.decode`."""
        y: Tensor = self.decoder(z)
        return y.reshape(-1, 1, SIDE, SIDE)
