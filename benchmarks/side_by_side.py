"""A picture for the README: original, vaert, and JPEG at the same file size, the same crop of each."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks._machine import ROOT
from vaert.evaluate import read_rgb
from vaert.metrics import psnr
from vaert.runtime.codec import Codec

Pixels = npt.NDArray[np.uint8]


def main() -> int:
    """Compress, find the JPEG of the nearest size that is not smaller, draw."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.side_by_side", description=__doc__)
    options.add_argument("--image", type=Path, default=ROOT / "examples" / "kodim23.png")
    options.add_argument("--bpp", type=float, default=0.2, help="rate of the vaert file")
    options.add_argument("--crop", type=int, nargs=4, default=(60, 190, 320, 300), metavar=("Y", "X", "H", "W"))
    options.add_argument("--model", default="fast", help="bundled name or package folder")
    options.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "side_by_side.png")
    given = options.parse_args()
    original = read_rgb(given.image)
    codec = Codec(given.model)
    data = codec.compress(original, bpp=given.bpp)
    jpeg, size = nearest_jpeg(original, len(data))
    pixels = original.shape[0] * original.shape[1]
    panels = [("original", original)]
    for name, decoded, count in (("vaert", codec.decompress(data), len(data)), ("JPEG", jpeg, size)):
        panels.append((f"{name}, {8 * count / pixels:.3f} bpp, {psnr(original, decoded):.2f} dB", decoded))
    draw(panels, given.crop, given.out)
    print(given.out, "; ".join(label for label, _ in panels))
    return 0


def nearest_jpeg(original: Pixels, size: int) -> tuple[Pixels, int]:
    """The smallest JPEG (Pillow, 4:2:0, optimised) of at least `size` bytes, decoded, and its size."""
    from PIL import Image

    for quality in range(1, 96):
        buffer = io.BytesIO()
        Image.fromarray(original).save(buffer, "JPEG", quality=quality, optimize=True, subsampling="4:2:0")
        if buffer.tell() >= size:
            break
    return np.asarray(Image.open(buffer).convert("RGB")), buffer.tell()


def draw(panels: list[tuple[str, Pixels]], crop: tuple[int, int, int, int], out: Path) -> None:
    """Pixels one to one, a label above each panel."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    y, x, height, width = crop
    dpi, top, gap = 100, 24, 6
    total = len(panels) * width + (len(panels) - 1) * gap
    figure: Any = pyplot.figure(figsize=(total / dpi, (height + top) / dpi), dpi=dpi)
    for number, (label, pixels) in enumerate(panels):
        left = number * (width + gap) / total
        axes = figure.add_axes((left, 0, width / total, height / (height + top)))
        axes.imshow(pixels[y : y + height, x : x + width], interpolation="nearest")
        axes.set_axis_off()
        axes.set_title(label, fontsize=9, pad=4)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)
    pyplot.close(figure)


if __name__ == "__main__":
    raise SystemExit(main())
