"""Rate-distortion curves of a run, or of `benchmarks.rate_distortion`, beside published ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._suite_figure import BLUE, GREEN, INK, ORANGE, PINK, RED, SKY, new, save, styled
from benchmarks._suite_tables import Row, measured
from vaert.anchors import DRAWN, published_curves
from vaert.bd_rate import Curve
from vaert.plot import BPP_MAX

OURS = "vaert "
COLOURS, MARKS = (ORANGE, RED, GREEN, INK, PINK, SKY), "sDv^Pp"
DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), "-", (0, (6, 2)))
SHADES = ("#555555", "#555555", "#555555", "#555555", "#AAAAAA", "#AAAAAA")  # of published curves
PUBLISHED = "published, Kodak"


def of_section(rows: Sequence[Row]) -> tuple[list[Curve], str, bool]:
    """Curves of a run, what they are means over, and whether that is Kodak, as published curves are."""
    found: dict[str, list[tuple[float, float]]] = {}
    points = [row for row in measured(rows) if row["name"] == "point"]
    for row in points:
        found.setdefault(row["parameters"]["codec"], []).append((row["value"], row["facts"]["psnr_db"]))
    curves = [Curve(name, tuple(b for b, _ in p), tuple(d for _, d in p)) for name, p in found.items()]
    kodak = any(row["name"] == "BD-rate" and row["parameters"].get("curve") == PUBLISHED for row in measured(rows))
    images, count = (points[0]["parameters"][name] for name in ("images", "pictures")) if points else ("", 0)
    images = "Kodak" if kodak else images
    over = f"{images}, one picture" if count == 1 else f"means over the {count} pictures of {images}"
    return curves, over, kodak


def of_script(results: Mapping[str, Any]) -> tuple[list[Curve], str, bool]:
    """The same of benchmarks/results/rate_distortion.json."""
    ours = results["points"]
    curves = [Curve(OURS + results["model"]["name"], *(tuple(p[name] for p in ours) for name in ("bpp", "psnr")))]
    curves += [Curve(c["name"], tuple(c["bpp"]), tuple(c["psnr"])) for c in results["curves"]]
    kodak = any(not c["measured"] and c["percent"] is not None for c in results["bd_rates"])
    over = f"means over the {results['images']} pictures{' of Kodak' if kodak else ''}"
    return curves, over, kodak


def draw(path: Path, curves: Sequence[Curve], over: str, *, kodak: bool) -> None:
    """PSNR over bits per pixel as a PNG. OutputError."""
    with styled():
        figure = new(5.2, f"Rate and distortion, {over}")
        axes = figure.add_subplot()
        published = [c for c in published_curves(DRAWN) if c.name not in {_short(c) for c in curves}] if kodak else []
        for curve, dash, shade in zip(published, DASHES, SHADES, strict=False):
            axes.plot(curve.bpp, curve.psnr, color=shade, linewidth=1.1, linestyle=dash, label=curve.name)
        others = [curve for curve in curves if not curve.name.startswith(OURS)]
        ours = _apart([curve for curve in curves if curve.name.startswith(OURS)])
        for number, curve in enumerate(others):
            look: Any = {"color": COLOURS[number % len(COLOURS)], "marker": MARKS[number % len(MARKS)]}
            axes.plot(curve.bpp, curve.psnr, linewidth=1.5, markersize=4, label=_label(curve, others), **look)
        for number, curve in enumerate(ours):
            solid = {"linewidth": 2.6, "marker": "o", "markersize": 4.5} if number == 0 else {"linewidth": 1.2}
            dash = "-" if number == 0 else DASHES[number % len(DASHES)]
            axes.plot(curve.bpp, curve.psnr, color=BLUE, linestyle=dash, zorder=4, label=curve.name, **solid)
        axes.set(xlabel="bits per pixel", ylabel="PSNR in RGB (dB)", xlim=(0, BPP_MAX))
        drawn = [y for curve in curves for x, y in zip(curve.bpp, curve.psnr, strict=True) if 0 <= x <= BPP_MAX]
        if drawn:
            axes.set_ylim(min(drawn) - 0.5, max(drawn) + 0.8)
        axes.grid()
        _legends(axes, count=len(published))
        save(figure, path)


def _apart(curves: Sequence[Curve]) -> list[Curve]:
    """Without those that another covers: a precision that changes no rate by more than half a percent."""
    kept: list[Curve] = []
    for curve in curves:
        if not any(len(k.bpp) == len(curve.bpp) and np.allclose(k.bpp, curve.bpp, rtol=0.005) for k in kept):
            kept.append(curve)
    return kept


def _legends(axes: Any, *, count: int) -> None:
    """Measured curves, ours first, then the `count` published ones."""
    lines, names = axes.get_legend_handles_labels()
    order = sorted(range(count, len(lines)), key=lambda n: not names[n].startswith(OURS))
    place = {"fontsize": 9, "loc": "upper left", "alignment": "left", "borderaxespad": 0.2, "handlelength": 2.4}
    first = axes.legend([lines[n] for n in order], [names[n] for n in order], bbox_to_anchor=(1, 1), **place)
    first.set_title("measured", {"weight": "bold", "size": 9})
    if count:
        axes.add_artist(first)
        second = axes.legend(
            lines[:count], names[:count], bbox_to_anchor=(1, 0.9 - 0.045 * (len(lines) - count)), **place
        )
        second.set_title("published, Kodak", {"weight": "bold", "size": 9})


def _short(curve: Curve) -> str:
    return curve.name.split(" (")[0]


def _label(curve: Curve, others: Sequence[Curve]) -> str:
    """Without what is in brackets, but for what tells apart two of one name."""
    twice = [other for other in others if _short(other) == _short(curve)]
    sampling = next((part for part in ("4:2:0", "4:4:4") if part in curve.name), "")
    return f"{_short(curve)} {sampling}".strip() if len(twice) > 1 else _short(curve)
