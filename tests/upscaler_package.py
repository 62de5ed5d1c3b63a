"""Upscalers of a few channels with random weights, exported: as deep as the real ones, so the halo is theirs."""

from pathlib import Path

import torch

from vaert.export.pipeline import write_fp32
from vaert.export.source import half_weights
from vaert.export.upscaler import UpscalerSource
from vaert.package import Package
from vaert.trainer.models.upscaler import UpscalerConfig, UpscalerVAE


def make_source(scale: int, *, blocks: int = 5, latents: int = 3, noise: float = 0.1) -> UpscalerSource:
    """Weights large enough that every pixel of the halo and every latent counts; with `noise` 0 it is bicubic."""
    config = UpscalerConfig(scale=scale, channels=8, blocks=blocks, latents=latents, posterior=4)
    torch.manual_seed(scale)
    model = UpscalerVAE(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    weights = half_weights(model.state_dict(), Path("made"))
    return UpscalerSource(config, f"upscale-x{scale}", weights, {"steps": 0})


def make_package(folder: Path, scale: int, *, noise: float = 0.1) -> Package:
    """Write a package."""
    return write_fp32(make_source(scale, noise=noise), folder / f"x{scale}")
