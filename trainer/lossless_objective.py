"""The evidence lower bound (ELBO) of a lossless model: the bits that bits-back coding will spend."""

from __future__ import annotations

import torch
from torch import Tensor

from vaert.trainer.models.lossless_order import PIXELS
from vaert.trainer.models.mnist_lossless import LosslessVAE
from vaert.trainer.objective import Metrics, Objective

KL_WARMUP = 0.1  # fraction of the run over which the weight of the KL term grows from 0 to 1
WHITE = 255


class BitsBackRate(Objective):
    """Minus the ELBO in bits per pixel, one sample of z.

    For a model of two levels every digit is binarised anew at each step, its grey values as probabilities.
    """

    def __init__(self, model: LosslessVAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Metrics]:
        """uint8 (N, 28, 28) -> loss, and bpp and kl (bits per pixel, and of them the latents') as 0-d tensors."""
        if self.model.config.levels == 2:
            batch = (torch.bernoulli(batch.float() / WHITE, generator=generator) * WHITE).to(torch.uint8)
        kl, bits = (part.mean() / PIXELS for part in self.model(batch, generator))
        loss = bits + kl * min(1.0, self.progress / KL_WARMUP)
        return loss, {"bpp": (kl + bits).detach(), "kl": kl.detach()}
