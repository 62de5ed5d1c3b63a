"""Pictures of what a finished run has learned."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import torch

from vaert.atomic import write_atomic
from vaert.image import encode_image
from vaert.resample import downscale, upscale
from vaert.trainer.damage import DamagedPictures
from vaert.trainer.data import Pictures
from vaert.trainer.digits import DigitSet
from vaert.trainer.models.codec import QUALITY_MAX, QUALITY_MIN, CodecVAE
from vaert.trainer.models.conditional import PIXEL_MAX
from vaert.trainer.models.digits import DigitVAE
from vaert.trainer.models.restorer import RestorerVAE
from vaert.trainer.models.upscaler import UpscalerVAE
from vaert.trainer.objective import psnr

PLOT, DIGITS, UPSCALED, RESTORED = "rd.png", "reconstructions.png", "upscaled.png", "restored.png"
SHOWN = 6  # pictures
PLOT_SIZE = 256  # pixels; only the middle of larger pictures is measured


@torch.no_grad()
def rate_distortion(
    model: CodecVAE, pictures: Sequence[npt.NDArray[np.uint8]], qualities: Sequence[float]
) -> list[tuple[float, float]]:
    """(bits per pixel, PSNR in dB) per quality: means over the pictures' parts that are multiples of 64 pixels."""
    device = next(model.parameters()).device
    rows = []
    for quality in qualities:
        figures = []
        for pixels in pictures:
            h, w = pixels.shape[0] // 64 * 64, pixels.shape[1] // 64 * 64
            x = torch.from_numpy(np.ascontiguousarray(pixels[:h, :w])).to(device)
            x = x.permute(2, 0, 1)[None].float() / 255 - 0.5
            x = x.contiguous(memory_format=torch.channels_last)
            decoded, bpp = model(x, torch.tensor([quality], device=device), None)
            levels = ((decoded + 0.5) * 255).round().clamp(0, 255) / 255 - 0.5
            figures.append((float(bpp), float(psnr((levels - x).square().mean()))))
        means = np.mean(figures, 0)
        rows.append((float(means[0]), float(means[1])))
    return rows


def plot_rate_distortion(model: CodecVAE, pictures: Pictures, out: Path) -> dict[str, Path]:
    """Rate-distortion curve of the model on the held-out pictures' middles as a PNG in `out`, by name.

    Without matplotlib there is none, and a note that says so.
    """
    path = out / PLOT
    try:
        import matplotlib
    except ModuleNotFoundError:
        click.echo(f"vaert: warning: no {path.name}: it needs matplotlib: pip install 'vaert[eval]'", err=True)
        return {}
    matplotlib.use("Agg")
    from matplotlib import pyplot

    parts = [_middle(picture) for picture in pictures.held_out]
    rows = rate_distortion(model, parts, [float(q) for q in np.linspace(QUALITY_MIN, QUALITY_MAX, 12)])
    figure, axes = pyplot.subplots(figsize=(6, 4), dpi=120)
    axes.plot(*zip(*rows, strict=True), marker="o")
    axes.set(xlabel="bits per pixel", ylabel="PSNR, dB", title=f"rate and distortion, {len(parts)} pictures")
    axes.grid(alpha=0.3)
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    pyplot.close(figure)
    write_atomic(path, buffer.getvalue(), force=True)
    return {"plot": path}


def _middle(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    top, left = (max(0, side - PLOT_SIZE) // 2 for side in pixels.shape[:2])
    return pixels[top : top + PLOT_SIZE, left : left + PLOT_SIZE]


@torch.no_grad()
def plot_digits(model: DigitVAE, data: DigitSet, out: Path) -> dict[str, Path]:
    """Training digits over their reconstructions as a PNG in `out`, by name."""
    path, digits = out / DIGITS, data.digits[:20]
    device = next(model.parameters()).device
    mean, _ = model.eval().encode(torch.from_numpy(digits)[:, None].to(device).float() / 255)
    decoded = (torch.sigmoid(model.decode(mean))[:, 0] * 255).round().to(torch.uint8).cpu().numpy()
    rows = [np.concatenate(list(row), axis=1) for row in (digits, decoded)]
    write_atomic(path, encode_image(np.concatenate(rows), format="png"), force=True)
    return {"plot": path}


@torch.no_grad()
def plot_upscaled(model: UpscalerVAE, pictures: Pictures, out: Path) -> dict[str, Path]:
    """Held-out pictures' middles as a PNG in `out`, by name: bicubic, at the prior mean, drawn from it, original."""
    path, scale, device, rows = out / UPSCALED, model.config.scale, next(model.parameters()).device, []
    generator = torch.Generator(device).manual_seed(0)
    for picture in pictures.held_out[:SHOWN]:
        large = _middle(picture)
        large = large[: large.shape[0] // scale * scale, : large.shape[1] // scale * scale]
        small = downscale(large, scale)
        x = torch.from_numpy(small).to(device).permute(2, 0, 1)[None].float() / PIXEL_MAX
        noise = torch.randn((1, model.config.latents, *small.shape[:2]), generator=generator, device=device)
        made = [(model(x, n)[0] * PIXEL_MAX).round().byte().permute(1, 2, 0).cpu().numpy() for n in (0 * noise, noise)]
        shown = np.zeros((PLOT_SIZE, 4 * PLOT_SIZE, 3), np.uint8)
        for number, part in enumerate((upscale(small, scale), *made, large)):
            left = number * PLOT_SIZE
            shown[: large.shape[0], left : left + large.shape[1]] = part
        rows.append(shown)
    write_atomic(path, encode_image(np.concatenate(rows), format="png"), force=True)
    return {"plot": path}


@torch.no_grad()
def plot_restored(model: RestorerVAE, pictures: DamagedPictures, out: Path) -> dict[str, Path]:
    """Crops of held-out pictures as a PNG in `out`, by name: damaged with holes in black, restored, clean."""
    path, device, rng = out / RESTORED, next(model.parameters()).device, np.random.default_rng(0)
    batch = DamagedPictures(pictures.held_out, ()).batch(rng, SHOWN, PLOT_SIZE)
    clean, damaged, mask = batch[..., :3], batch[..., 3:6], batch[..., 6:]
    x, hidden = (torch.from_numpy(a).to(device).permute(0, 3, 1, 2).float() for a in (damaged, mask))
    restored = (model(x / PIXEL_MAX, hidden) * PIXEL_MAX).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    shown = np.concatenate([np.concatenate(list(a)) for a in (damaged * (1 - mask), restored, clean)], 1)
    write_atomic(path, encode_image(shown, format="png"), force=True)
    return {"plot": path}
