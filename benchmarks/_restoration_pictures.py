"""The picture of the restoration benchmark: crops of damaged, restored and original pictures, one to one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._holes import Mask
from vaert.evaluate import Pixels
from vaert.evaluate_restorer import CHROMA, compressed, telea
from vaert.runtime.restorer import Restorer

WIDTH, HEIGHT, GAP, TITLE, DPI = 900, 200, 6, 22, 100  # pixels; of a row, between panels, above them
REPAIRED = {"img_041": (60, 150), "img_043": (90, 100)}  # crops' upper left corners, y and x
FILLED = ("img_060", "img_071")  # crops are around the holes' middles
QUALITY = 10

Panels = list[tuple[str, Pixels]]


def draw(restorer: Restorer, pictures: Mapping[str, Pixels], masks: Mapping[str, Mask], out: Path) -> None:
    """Rows of JPEG, restored, original; then rows of hole, Telea, filled, original."""
    rows: list[Panels] = []
    for name, corner in REPAIRED.items():
        damaged = compressed(pictures[name], "JPEG", quality=QUALITY, subsampling=CHROMA)
        whole = [(f"JPEG, quality {QUALITY}", damaged), ("restored", restorer.restore(damaged))]
        rows.append(_cropped([*whole, ("original", pictures[name])], corner))
    for name in FILLED:
        hidden = masks[name]
        holed = np.where(hidden[..., None], 0, pictures[name]).astype(np.uint8)
        whole = [("hidden", holed), ("OpenCV, Telea", telea(holed, hidden))]
        filled = [("restored", restorer.restore(holed, hidden)), ("original", pictures[name])]
        rows.append(_cropped(whole + filled, _around(hidden)))
    _write(rows, out)


def _around(hidden: Mask) -> tuple[int, int]:
    """Corner of a crop with the hole's middle in its own, as far as it can be."""
    width = (WIDTH - 3 * GAP) // 4
    middles = (int(np.median(places)) for places in np.nonzero(hidden))
    y, x = (
        min(max(0, middle - side // 2), length - side)
        for middle, side, length in zip(middles, (HEIGHT, width), hidden.shape, strict=True)
    )
    return y, x


def _cropped(panels: Panels, corner: tuple[int, int]) -> Panels:
    """Panels as wide as fit into a row."""
    (y, x), width = corner, (WIDTH - (len(panels) - 1) * GAP) // len(panels)
    return [(label, pixels[y : y + HEIGHT, x : x + width]) for label, pixels in panels]


def _write(rows: list[Panels], out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    total = len(rows) * (HEIGHT + TITLE)
    figure: Any = pyplot.figure(figsize=(WIDTH / DPI, total / DPI), dpi=DPI)
    for number, panels in enumerate(rows):
        left, bottom = 0, total - (number + 1) * (HEIGHT + TITLE)
        for label, pixels in panels:
            width = pixels.shape[1]
            axes = figure.add_axes((left / WIDTH, bottom / total, width / WIDTH, HEIGHT / total))
            axes.imshow(pixels, interpolation="nearest")
            axes.set_axis_off()
            axes.set_title(label, fontsize=9, pad=4)
            left += width + GAP
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)
    pyplot.close(figure)
