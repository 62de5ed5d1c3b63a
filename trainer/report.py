"""What a run tells: a progress bar, a CSV log, and the rate-distortion plot at the end."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import click
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vaert.trainer.models.codec import QUALITY_MAX, QUALITY_MIN, CodecVAE
from vaert.trainer.objective import psnr

LOG_EVERY = 100
PLOT_SIZE = 256


class Progress:
    """Mean figures per LOG_EVERY steps to a CSV file, and a bar with them on a terminal."""

    def __init__(self, path: Path, steps: int, done: int, *, quiet: bool) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count, self.done, self.steps, self.path, self.quiet = 0, done, steps, path, quiet
        self.started, self.first, self.text = time.monotonic(), done, ""
        hidden = quiet or not sys.stderr.isatty()
        self.bar = click.progressbar(
            length=steps, label="training", file=sys.stderr, hidden=hidden, item_show_func=lambda _: self.text
        )

    def __enter__(self) -> Progress:
        self.bar.__enter__()
        self.bar.update(self.done)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._flush()
        self.bar.__exit__(kind, value, tb)

    def update(self, step: int, figures: dict[str, Tensor]) -> None:
        """Add the figures (0-d tensors) of the step that just ended."""
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, torch.zeros(())) + value.detach().cpu()
        self.count, self.done = self.count + 1, step
        if step % LOG_EVERY == 0:
            self._flush()
        self.bar.update(1)

    def _flush(self) -> None:
        if self.count == 0 or self.quiet:
            return
        means = {name: float(value) / self.count for name, value in self.sums.items()}
        self.sums, self.count = {}, 0
        speed = (self.done - self.first) / (time.monotonic() - self.started)
        self.text = f"{speed:.1f} it/s  {means['psnr']:.2f} dB  {means['bpp']:.3f} bpp  loss {means['loss']:.3f}"
        row = {"step": self.done, "seconds": round(time.monotonic() - self.started, 1), **means}
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)


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
            decoded, bpp = model(x.contiguous(memory_format=torch.channels_last), torch.tensor([quality], device=device), None)
            levels = ((decoded + 0.5) * 255).round().clamp(0, 255) / 255 - 0.5
            figures.append((float(bpp), float(psnr((levels - x).square().mean()))))
        means = np.mean(figures, 0)
        rows.append((float(means[0]), float(means[1])))
    return rows


def write_plot(model: CodecVAE, pictures: Sequence[npt.NDArray[np.uint8]], path: Path) -> None:
    """Rate-distortion curve of the model on held-out pictures as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = rate_distortion(model, pictures, [float(q) for q in np.linspace(QUALITY_MIN, QUALITY_MAX, 12)])
    figure, axes = pyplot.subplots(figsize=(6, 4), dpi=120)
    axes.plot(*zip(*rows, strict=True), marker="o")
    axes.set(xlabel="bits per pixel", ylabel="PSNR, dB", title=f"{len(pictures)} held-out pictures")
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
