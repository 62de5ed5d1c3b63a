"""The codec VAE: transforms at 1/8 and 1/16 of the picture, variable rate, exact prior.

Rate + distortion as the VAE's objective: Balle et al., "Variational image compression with a scale hyperprior",
ICLR 2018, eq. 9. Checkerboard context: He et al., "Checkerboard Context Model for Efficient Learned Image Compression",
CVPR 2021. Per-channel gains per quality: Cui et al., "Asymmetric Gained Deep Image Compression", CVPR 2021.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from vaert.trainer.models import dct
from vaert.trainer.models.blocks import Block, clamp_st, round_st
from vaert.trainer.models.prior import ExactPrior, Moments, pack, scale_of, unpack

QUALITY_MIN, QUALITY_MAX = 1.0, 100.0
HYPER_MAX = 127
PIXEL_MAX = 255.0


@dataclass(frozen=True)
class CodecConfig:
    """Shape of one codec. `fast`, `base` and `hq` differ in nothing else."""

    channels: int = 96  # C, at 1/8
    latents: int = 320  # M, at 1/16: high rates need the dimensions, zeros cost next to nothing
    hyper: int = 64  # H, at 1/64
    hidden: int = 128  # E, prior
    mix: int = 192  # prior, before the outputs
    encoder_blocks: int = 3
    decoder_blocks: int = 4
    expansion: int = 4
    anchors: int = 10  # qualities that have gains of their own
    lambda_min: float = 0.0005  # at quality 1, for MSE on the 0..255 scale
    lambda_max: float = 0.4  # at quality 100


PROFILES = {
    "fast": CodecConfig(),
    "base": CodecConfig(channels=192, latents=320, hyper=96, hidden=160, mix=256, encoder_blocks=3, decoder_blocks=4),
    "hq": CodecConfig(channels=352, latents=320, hyper=128, hidden=192, mix=320, encoder_blocks=6, decoder_blocks=7),
}


def gaussian_bits(v: Tensor, scale: Tensor) -> Tensor:
    """Bits of the unit interval around `v` under a zero-mean Gaussian of standard deviation `scale`, same shape."""
    a = v.abs()
    k = 1 / math.sqrt(2)
    upper = torch.erfc((a - 0.5) * (k / scale))
    lower = torch.erfc((a + 0.5) * (k / scale))
    return -torch.log2((0.5 * (upper - lower)).clamp_min(1e-9))


class HyperLatentDensity(nn.Module):
    """p(z): a mixture of three logistic distributions per channel; z scales with quality, so one bell does not fit."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(channels, 3))
        self.means = nn.Parameter(torch.zeros(channels, 3))
        self.log_scales = nn.Parameter(torch.tensor([-1.5, 0.0, 1.5]).repeat(channels, 1))

    def probability(self, z: Tensor) -> Tensor:
        """Mass of the unit interval around z, (N, channels, H, W) -> same shape."""
        v = z[..., None] - self.means[None, :, None, None]
        k = torch.exp(-self.log_scales)[None, :, None, None]
        mass = torch.sigmoid((v + 0.5) * k) - torch.sigmoid((v - 0.5) * k)
        return (mass * torch.softmax(self.logits, 1)[None, :, None, None]).sum(-1)

    def bits(self, z: Tensor) -> Tensor:
        """Bits of each z, same shape."""
        return -torch.log2(self.probability(z).clamp_min(1e-9))


class Analysis(nn.Module):
    """g_a: pixels in -1/2..1/2, (N, 3, H, W), to latents, (N, M, H / 16, W / 16); H and W multiples of 64."""

    def __init__(self, c: CodecConfig) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, c.channels, 8, 8)
        self.blocks = nn.Sequential(*(Block(c.channels, c.expansion) for _ in range(c.encoder_blocks)))
        self.down = nn.Conv2d(c.channels, c.latents, 2, 2)
        self.last = Block(c.latents, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Latents of pixels."""
        y: Tensor = self.last(self.down(self.blocks(self.embed(x))))
        return y


class Synthesis(nn.Module):
    """g_s: latents, (N, M, H / 16, W / 16), to pixels in -1/2..1/2, (N, 3, H, W), not clamped."""

    def __init__(self, c: CodecConfig) -> None:
        super().__init__()
        self.first = Block(c.latents, 2)
        self.up = nn.Conv2d(c.latents, 4 * c.channels, 1)
        self.blocks = nn.Sequential(*(Block(c.channels, c.expansion) for _ in range(c.decoder_blocks)))
        self.unembed = nn.Conv2d(c.channels, 192, 1)

    def forward(self, y: Tensor) -> Tensor:
        """Pixels of latents."""
        x = self.blocks(F.pixel_shuffle(self.up(self.first(y)), 2))
        return F.pixel_shuffle(self.unembed(x), 8)


class HyperAnalysis(nn.Module):
    """h_a: scaled latents, (N, M, H, W), to hyper-latents before rounding, (N, hyper, H / 4, W / 4)."""

    def __init__(self, c: CodecConfig) -> None:
        super().__init__()
        self.first = nn.Conv2d(c.latents, c.hyper, 3, 2, 1)
        self.second = nn.Conv2d(c.hyper, c.hyper, 3, 2, 1)

    def forward(self, y: Tensor) -> Tensor:
        """Hyper-latents of scaled latents."""
        z: Tensor = self.second(F.leaky_relu(self.first(y), 0.01))
        return z


@dataclass(frozen=True)
class Rate:
    """What one pass through the prior gives: reconstructed latents and the bits they cost, (N, M, h, w) each."""

    latents: Tensor
    bits: Tensor


class CodecVAE(nn.Module):
    """Encoder q(y | x), decoder p(x | y) and prior p(y | z) p(z) of one variable-rate image codec."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.analysis, self.synthesis = Analysis(config), Synthesis(config)
        self.hyper_analysis = HyperAnalysis(config)
        self.density = HyperLatentDensity(config.hyper)
        self.prior = ExactPrior(latents=config.latents, hyper=config.hyper, hidden=config.hidden, mix=config.mix)
        lambdas = self.lagrange(torch.linspace(QUALITY_MIN, QUALITY_MAX, config.anchors))
        # High-rate theory: D = step^2 / 12 and dR/dD = -lambda give step ~ lambda^-1/2; 75 was measured on one set of
        # pictures.
        log_gain = torch.log(75 * torch.sqrt(lambdas))[:, None].repeat(1, config.latents)
        self.log_gain, self.log_inverse_gain = nn.Parameter(log_gain), nn.Parameter(-log_gain)
        self._warm_start()

    @torch.no_grad()
    def _warm_start(self) -> None:
        """Make the network a block DCT codec, so that training starts from one and only improves it."""
        c = self.config
        rows8 = dct.lowest_frequencies(8, dct.luma_chroma_split(c.channels, 0.5))
        rows16 = dct.lowest_frequencies(16, dct.luma_chroma_split(c.latents, 0.7))
        if len(rows8) < c.channels:  # more channels than coefficients: the rest keep their initialisation
            self.analysis.embed.weight[len(rows8) :] *= 0.1
        merge = dct.merge_2x2(rows16, rows8)  # M, C, 2, 2
        n = len(rows8)
        embed, unembed = self.analysis.embed, self.synthesis.unembed
        embed.weight[:n] = torch.from_numpy(rows8.reshape(n, 3, 8, 8)).float()
        down, up = self.analysis.down, self.synthesis.up
        down.weight.zero_()
        unembed.weight.zero_()
        down.weight[:, :n] = torch.from_numpy(merge).float()
        split = torch.from_numpy(merge.transpose(1, 2, 3, 0).reshape(n, 4, c.latents)).float()
        up.weight.view(c.channels, 4, c.latents)[:n] = split
        unembed.weight[:, :n, 0, 0] = torch.from_numpy(np.ascontiguousarray(rows8.T)).float()
        for layer in (embed, down, up, unembed):
            assert layer.bias is not None
            layer.bias.zero_()

    def lagrange(self, quality: Tensor) -> Tensor:
        """lambda of a quality in 1..100, for MSE on the 0..255 scale, same shape."""
        t = (quality - QUALITY_MIN) / (QUALITY_MAX - QUALITY_MIN)
        return self.config.lambda_min * (self.config.lambda_max / self.config.lambda_min) ** t

    def gains(self, quality: Tensor) -> tuple[Tensor, Tensor]:
        """Gain before rounding and inverse gain after it, (N,) in 1..100 -> two of (N, M, 1, 1)."""
        t = (quality - QUALITY_MIN) / (QUALITY_MAX - QUALITY_MIN) * (self.config.anchors - 1)
        low = t.floor().clamp(0, self.config.anchors - 2).long()
        f = (t - low)[:, None]
        mix = [torch.exp(g[low] * (1 - f) + g[low + 1] * f) for g in (self.log_gain, self.log_inverse_gain)]
        return mix[0][:, :, None, None], mix[1][:, :, None, None]

    def rate(self, y: Tensor, z: Tensor, noise: Tensor | None) -> Rate:
        """Quantise scaled latents (N, M, h, w) given integers z; with uniform noise the rate is differentiable."""
        features = pack(self.prior.hyper_features(z))
        halves, noises = pack(y), pack(noise) if noise is not None else (None, None)
        seen, bits0 = self._half(halves[0], self.prior.anchor_moments(features[0]), noises[0])
        rest, bits1 = self._half(halves[1], self.prior.context_moments(features[1], seen), noises[1])
        return Rate(unpack(seen, rest), unpack(bits0, bits1))

    def _half(self, y: Tensor, p: Moments, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        residual = y - p.mean
        rounded = round_st(residual)
        bits = gaussian_bits(residual + noise if noise is not None else rounded, scale_of(p.index))
        if self.prior.integer:  # elements with index 0 are not coded
            coded = (p.index >= 1).to(y.dtype)
            rounded, bits = rounded * coded, bits * coded
        return rounded + p.mean, bits

    def forward(self, x: Tensor, quality: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Pixels in -1/2..1/2, (N, 3, H, W), and qualities, (N,), to reconstruction and bits per pixel, (N,).

        With a generator the rate is the training proxy with uniform noise; without, that of the rounded values.
        """
        gain, inverse = self.gains(quality)
        y = self.analysis(x).float() * gain
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 cannot carry the prior's integers
            latents, bits = self._coded(y, generator)
        return self.synthesis(latents * inverse), bits / (x.shape[2] * x.shape[3])

    def _coded(self, y: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        raw_z = self.hyper_analysis(y)
        z = clamp_st(round_st(raw_z), -HYPER_MAX, HYPER_MAX)
        noise = noise_z = None
        if generator is not None:
            noise = torch.rand(y.shape, generator=generator, device=y.device) - 0.5
            noise_z = torch.rand(z.shape, generator=generator, device=y.device) - 0.5
        rate = self.rate(y, z, noise)
        bits_z = self.density.bits(raw_z + noise_z if noise_z is not None else z)
        return rate.latents, rate.bits.sum((1, 2, 3)) + bits_z.sum((1, 2, 3))
