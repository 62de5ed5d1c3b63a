"""What upscaler and restorer are trained for: the error at the prior mean and the conditional ELBO."""

from __future__ import annotations

import torch
from torch import Tensor

from vaert.resample import axis_matrix
from vaert.trainer.models.conditional import PIXEL_MAX
from vaert.trainer.models.restorer import RestorerVAE, filled
from vaert.trainer.models.upscaler import UpscalerVAE
from vaert.trainer.objective import Metrics, Objective, psnr

KL_WARMUP = 0.2  # fraction of the run over which the weight of the KL term grows from 0 to 1
HOLE = 5.0  # at errors of 0.1, such as are common in holes, the gradient is that of the absolute error
LUMA = (0.299, 0.587, 0.114)
ELBO_WEIGHT = 0.5  # against the error at the prior mean, see docs/training.md
MARGIN = 2  # small pixels at every edge of a crop that the down-scaling makes from repeated samples: cut off


class ConditionalElbo(Objective):
    """Mean absolute error at the prior mean, plus the conditional ELBO with a Laplace likelihood, one sample of z.

    The likelihood's scale b is at its optimum, the mean absolute error under q (the idea of Rybkin et al., "Simple and
    Effective VAE Training with Calibrated Decoders", ICML 2021, section 3.2, there for a Gaussian). The ELBO is
    multiplied by b, so that both terms are absolute errors and the weight between them means the same all along.
    """

    def __init__(self, model: UpscalerVAE | RestorerVAE) -> None:
        super().__init__()
        self.model = model

    def pair(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """What the model is given and what it should make of it, 0..1, (N, C, h, w) and (N, 3, H, W), of a batch."""
        raise NotImplementedError

    def forward(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Metrics]:
        """Batch -> loss; psnr (dB) at the prior mean, detail (dB) with z of the posterior, kl (nats per latent)."""
        model = self.model
        given, target = self.pair(batch, generator)
        base = model.base(given)
        missing = target - model.picture(base)
        with torch.autocast(target.device.type, torch.bfloat16, enabled=self.amp):
            features = model.features(given)
            prior = model.prior(features)
            best = model.decode(base, features, prior.mean)
            posterior = model.posterior(missing, features, prior)
            noise = torch.randn(prior.mean.shape, generator=generator, device=target.device)
            drawn = model.decode(base, features, posterior.sample(noise))
        kl = posterior.divergence(prior).mean()
        error, scatter = self.error(best, target, given), self.error(drawn, target, given)
        latents_per_sample = prior.mean.numel() / target.numel()
        weight = min(1.0, self.progress / KL_WARMUP) * scatter.detach() * latents_per_sample
        metrics = {"psnr": _psnr(best, target), "detail": _psnr(drawn, target), "kl": kl.detach()}
        return error + ELBO_WEIGHT * (scatter + weight * kl), metrics

    def error(self, found: Tensor, target: Tensor, given: Tensor) -> Tensor:
        """Mean absolute error of pictures (N, 3, H, W)."""
        return (found - target).abs().mean()


class Upscaling(ConditionalElbo):
    """From large crops alone, uint8 (N, H, W, 3): sides are multiples of the scale, more than 2 MARGIN small pixels."""

    def pair(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Small and large pictures."""
        return small_and_large(turned(batch, generator), self.model.config.scale)


class Restoration(ConditionalElbo):
    """From crops that are clean, damaged and hidden in part, uint8 (N, H, W, 7): both in RGB, mask of 0 and 1."""

    def pair(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Filled pictures with their masks, and clean ones."""
        channels = batch.permute(0, 3, 1, 2).float()
        clean, damaged, hidden = channels[:, :3] / PIXEL_MAX, channels[:, 3:6] / PIXEL_MAX, channels[:, 6:]
        given = torch.cat([filled(damaged, hidden), hidden], 1)
        return tuple(t.contiguous(memory_format=torch.channels_last) for t in (given, clean))  # type: ignore[return-value]

    def error(self, found: Tensor, target: Tensor, given: Tensor) -> Tensor:
        """Mean error of RGB and of luma (BT.601) alike: the eye and the measure look at luma.

        Absolute where pixels are known. In holes, where much is possible, squared, HOLE times: its best guess is the
        mean and not the median.
        """
        difference, hidden = found - target, given[:, 3:] > 0
        luma = (difference * difference.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
        errors = (torch.where(hidden, HOLE * d.square(), d.abs()).mean() for d in (difference, luma))
        return 0.5 * sum(errors, torch.zeros((), device=found.device))


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
