"""The evidence lower bound (ELBO) of the digit VAEs as a training objective."""

from __future__ import annotations

import torch
from torch import Tensor

from vaert.trainer.models.digits import DigitVAE, kl_divergence, reparameterise
from vaert.trainer.objective import Metrics, Objective, psnr

KL_WARMUP = 0.02  # fraction of the run over which the weight of the KL term grows from 0 to 1


class Elbo(Objective):
    """-log p(x | z) + KL(q(z | x) || p(z)) in nats, one sample of z (Kingma & Welling 2014, eq. 10).

    With the Bernoulli likelihood every picture is binarised anew at each step, its grey values as probabilities.
    """

    def __init__(self, model: DigitVAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Metrics]:
        """uint8 (N, 28, 28) -> loss, and elbo and kl (nats) and psnr (dB) as 0-d tensors."""
        grey = batch[:, None].float() / 255
        binary = self.model.config.likelihood == "bernoulli"
        x = torch.bernoulli(grey, generator=generator) if binary else grey
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.amp):
            mean, log_variance = self.model.encode(x)
        z = reparameterise(mean.float(), log_variance.float(), generator)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.amp):
            logits = self.model.decode(z)
        fit = self.model.log_likelihood(x, logits.float()).mean()
        kl = kl_divergence(mean.float(), log_variance.float()).mean()
        mse = (torch.sigmoid(logits.detach().float()) - grey).square().mean()
        loss = kl * min(1.0, self.progress / KL_WARMUP) - fit
        return loss, {"elbo": (fit - kl).detach(), "kl": kl.detach(), "psnr": psnr(mse)}
