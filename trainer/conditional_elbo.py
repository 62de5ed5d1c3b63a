"""The upscaler's objective: error at the prior mean and the conditional ELBO, from large crops alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vaert.resample import axis_matrix
from vaert.trainer.models.upscaler import PIXEL_MAX, UpscalerVAE
from vaert.trainer.objective import Metrics, Objective, psnr

KL_WARMUP = 0.2  # fraction of the run over which the weight of the KL term grows from 0 to 1
ELBO_WEIGHT = 0.5  # against the error at the prior mean, see docs/training.md
MARGIN = 2  # small pixels at every edge of a crop that the down-scaling makes from repeated samples: cut off


class ConditionalElbo(Objective):
    """Mean absolute error at the prior mean, plus the conditional ELBO with a Laplace likelihood, one sample of z.

    The likelihood's scale b is at its optimum, the mean absolute error under q (the idea of Rybkin et al., "Simple and
    Effective VAE Training with Calibrated Decoders", ICML 2021, section 3.2, there for a Gaussian). The ELBO is
    multiplied by b, so that both terms are absolute errors and the weight between them means the same all along.
    """

    def __init__(self, model: UpscalerVAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Metrics]:
        """Large crops -> loss; psnr (dB) at the prior mean, detail (dB) with z of the posterior, kl (nats per latent).

        Crops are uint8 (N, H, W, 3) with sides that are multiples of the scale and more than 2 MARGIN small pixels.
        """
        scale, model = self.model.config.scale, self.model
        small, large = small_and_large(turned(batch, generator), scale)
        base = model.base(small)
        missing = large - F.pixel_shuffle(base, scale)
        with torch.autocast(large.device.type, torch.bfloat16, enabled=self.amp):
            features = model.features(small)
            prior = model.prior(features)
            best = model.decode(base, features, prior.mean)
            posterior = model.posterior(missing, features, prior)
            noise = torch.randn(prior.mean.shape, generator=generator, device=large.device)
            drawn = model.decode(base, features, posterior.sample(noise))
        kl = posterior.divergence(prior).mean()
        error, scatter = (best - large).abs().mean(), (drawn - large).abs().mean()
        latents_per_sample = prior.mean.numel() / large.numel()
        weight = min(1.0, self.progress / KL_WARMUP) * scatter.detach() * latents_per_sample
        metrics = {"psnr": _psnr(best, large), "detail": _psnr(drawn, large), "kl": kl.detach()}
        return error + ELBO_WEIGHT * (scatter + weight * kl), metrics


def small_and_large(crops: Tensor, scale: int) -> tuple[Tensor, Tensor]:
    """Both pictures, 0..1, (N, 3, h, w) and (N, 3, scale h, scale w), of uint8 crops; MARGIN is gone at every edge."""
    large = crops.permute(0, 3, 1, 2).float()
    small = downscale(large, scale)
    edge = MARGIN * scale
    pair = small[..., MARGIN:-MARGIN, MARGIN:-MARGIN], large[..., edge:-edge, edge:-edge]
    first, second = (t.div(PIXEL_MAX).contiguous(memory_format=torch.channels_last) for t in pair)
    return first, second


def downscale(pixels: Tensor, scale: int) -> Tensor:
    """`vaert.resample.downscale` of (N, C, H, W), 0..255 in float32; H and W multiples of `scale`."""
    height, width = pixels.shape[-2:]
    rows, columns = (
        torch.from_numpy(axis_matrix(size, size // scale)).to(pixels.device, torch.float32) for size in (height, width)
    )
    narrow = torch.floor(rows @ pixels + 0.5).clamp(0, PIXEL_MAX)
    return torch.floor(narrow @ columns.T + 0.5).clamp(0, PIXEL_MAX)


def turned(batch: Tensor, generator: torch.Generator) -> Tensor:
    """Square crops (N, H, H, C), all turned and mirrored alike, one of eight ways."""
    turns, mirrored = divmod(int(torch.randint(8, (1,), generator=generator, device=batch.device)), 2)
    batch = torch.rot90(batch, turns, (1, 2))
    return batch.flip(2) if mirrored else batch


def _psnr(x: Tensor, y: Tensor) -> Tensor:
    return psnr((x.detach() - y).square().mean())
