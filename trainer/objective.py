"""The loss of one batch as a module, so that it can be wrapped for several processes; that of the codec."""

from __future__ import annotations

import math

import torch
import torch.nn as nn
from torch import Tensor

from vaert.trainer.models.codec import PIXEL_MAX, QUALITY_MAX, QUALITY_MIN, CodecVAE

Metrics = dict[str, Tensor]


def psnr(mse: Tensor) -> Tensor:
    """dB of a mean squared error on the 0..1 scale."""
    return -10 / math.log(10) * torch.log(mse.clamp_min(1e-10))


class Objective(nn.Module):
    """What a kind of model is trained for: forward(batch, generator) -> loss and metrics, all 0-d tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.amp = False  # bfloat16 where the model can take it
        self.progress = 0.0  # fraction of the run that is done


class RateDistortion(Objective):
    """The codec's objective: R + lambda 255^2 MSE at a random quality per picture.

    Each term is divided by sqrt(lambda), as R grows about so: all rates then pull alike, in relative rate.
    """

    def __init__(self, model: CodecVAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Metrics]:
        """uint8 (N, H, W, 3) -> loss, and psnr (dB), bpp as 0-d tensors."""
        x = batch.permute(0, 3, 1, 2).float().div(PIXEL_MAX).sub(0.5)
        u = torch.rand((3, len(x)), generator=generator, device=x.device)
        triangular = u[0] < 0.5  # middle qualities are drawn more often than the ends
        quality = QUALITY_MIN + (QUALITY_MAX - QUALITY_MIN) * torch.where(triangular, (u[1] + u[2]) / 2, u[1])
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.amp):
            decoded, bpp = self.model(x, quality, generator)
        mse = (decoded.float() - x).square().mean((1, 2, 3))
        lagrange = self.model.lagrange(quality)
        middle = math.sqrt(self.model.config.lambda_min * self.model.config.lambda_max)
        loss = ((bpp + lagrange * PIXEL_MAX**2 * mse) * torch.sqrt(middle / lagrange)).mean()
        return loss, {"psnr": psnr(mse.detach()).mean(), "bpp": bpp.detach().mean()}
