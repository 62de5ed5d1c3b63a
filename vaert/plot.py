"""Rate-distortion curves as a PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from vaert.atomic import write_atomic
from vaert.bd_rate import Curve

BPP_MAX = 2.0  # right end of the axis


def write_plot(
    path: Path, curves: Sequence[Curve], *, published: Sequence[Curve], title: str, force: bool = False
) -> None:
    """Draw PSNR over bits per pixel, 0..2, to the PNG `path`: `curves` as lines with points, `published` as thin lines.

    OutputError if `path` cannot be written, or exists and `force` is not set.
    """
    from matplotlib.figure import Figure

    # Not pyplot: it would choose a window system and keep the figure for the life of the process.
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.add_subplot()
    for number, curve in enumerate(curves):
        axes.plot(
            curve.bpp,
            curve.psnr,
            marker="o",
            markersize=3.5,
            linewidth=2.2 if number == 0 else 1.4,
            zorder=3,
            label=curve.name,
        )
    for curve in published:
        axes.plot(
            curve.bpp, curve.psnr, linewidth=0.8, alpha=0.7, linestyle="--", label=f"{curve.name} (published, Kodak)"
        )
    axes.set(xlabel="bits per pixel", ylabel="PSNR, RGB (dB)", title=title, xlim=(0, BPP_MAX))
    drawn = [y for curve in curves for x, y in zip(curve.bpp, curve.psnr, strict=True) if 0 <= x <= BPP_MAX]
    if drawn:
        axes.set_ylim(min(drawn) - 1, max(drawn) + 1)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    write_atomic(path, stream.getvalue(), force=force)
