"""Figures of the report: one look, colours that the colour-blind can tell apart, small PNGs."""

from __future__ import annotations

import io
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaert.atomic import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 8.0  # inches: 1200 pixels, which a README shows in 800
DPI = 150
SHADES = 64  # colours of a PNG
# Okabe and Ito's palette, without its yellow, which is too light for lines on white.
BLUE, ORANGE, GREEN, RED, PINK, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
INK, MUTED, FAINT = "#222222", "#777777", "#DDDDDD"
STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "legend.frameon": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "figure.constrained_layout.w_pad": 0.06,
    "figure.constrained_layout.h_pad": 0.08,
}


def styled() -> AbstractContextManager[None]:
    """The look of everything that is drawn within."""
    from matplotlib import rc_context

    return rc_context(STYLE)


def new(height: float, title: str) -> Figure:
    """An empty figure, to be made and filled within `styled()`."""
    from matplotlib.figure import Figure

    # Not pyplot: it would choose a window system and keep the figure for the life of the process.
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write the PNG, of few colours where Pillow is there. OutputError."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    write_atomic(path, _reduced(stream.getvalue()), force=True)


def _reduced(data: bytes) -> bytes:
    from PIL import Image

    picture = Image.open(io.BytesIO(data)).convert("RGB")
    stream = io.BytesIO()
    picture.quantize(SHADES, dither=Image.Dither.NONE).save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def plain_ticks(axes: Axes, which: str, values: list[float]) -> None:
    """Ticks of a logarithmic axis at these values, written as they are."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(FixedLocator(values))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
