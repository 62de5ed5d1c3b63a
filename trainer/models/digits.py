"""What the VAEs of handwritten digits share; after Kingma & Welling, "Auto-Encoding Variational Bayes", ICLR 2014."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

SIDE = 28
LOG_VARIANCE_MIN, LOG_VARIANCE_MAX = -10.0, 5.0


@dataclass(frozen=True)
class DigitConfig:
    """Shape and likelihood of a VAE of digits."""

    latents: int
    hidden: int
    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli"
    variance: float = 0.02  # of the Gaussian likelihood, for pixels in 0..1


class DigitVAE(nn.Module, ABC):
    """Encoder q(z | x) = N(mu, sigma^2), decoder p(x | z), prior p(z) = N(0, 1); x has pixels in 0..1."""

    def __init__(self, config: DigitConfig) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels in 0..1, (N, 1, 28, 28), to mu and log sigma^2 of q(z | x), (N, latents) each."""

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """Latents, (N, latents), to logits, (N, 1, 28, 28); their sigmoid is the mean of p(x | z)."""

    def log_likelihood(self, x: Tensor, logits: Tensor) -> Tensor:
        """log p(x | z) in nats, (N,). For the Bernoulli likelihood x is 0 or 1, for the Gaussian 0..1."""
        if self.config.likelihood == "bernoulli":
            return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum((1, 2, 3))
        variance = self.config.variance
        squares = (x - torch.sigmoid(logits)).square().sum((1, 2, 3))
        return -0.5 * (squares / variance + SIDE * SIDE * math.log(2 * math.pi * variance))


def split_moments(y: Tensor) -> tuple[Tensor, Tensor]:
    """The last layer of an encoder, (N, 2 latents), as mu and log sigma^2, the latter within -10..5."""
    mean, log_variance = y.chunk(2, 1)
    return mean, log_variance.clamp(LOG_VARIANCE_MIN, LOG_VARIANCE_MAX)


def reparameterise(mean: Tensor, log_variance: Tensor, generator: torch.Generator) -> Tensor:
    """z = mu + sigma * epsilon with epsilon ~ N(0, 1), same shape (Kingma & Welling 2014, section 2.4)."""
    noise = torch.randn(mean.shape, generator=generator, device=mean.device)
    return mean + torch.exp(0.5 * log_variance) * noise


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, 1)) in nats, (N, latents) -> (N,).

    The closed form -1/2 sum(1 + log sigma^2 - mu^2 - sigma^2) of Kingma & Welling 2014, appendix B.
    """
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1)
