"""Curves to compare with: other formats measured through Pillow on the same images, and published ones on Kodak."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

from vaert.bd_rate import Curve
from vaert.metrics import psnr

JPEG_QUALITIES = (5, 10, 20, 30, 50, 70, 85, 92)
JPEG_OPTIONS = {"subsampling": "4:2:0", "optimize": True}
JPEG_RATES = (0.25, 1.5)
"""Bits per pixel of JPEG between whose PSNRs codecs are compared."""


DRAWN = ("WebP", "HEVC intra (HM)", "VVC intra (VTM)", "bmshj2018-hyperprior", "mbt2018-mean", "ELIC (paper)")
"""Published curves that fit into one plot."""


def published_curves(names: Sequence[str] = ()) -> tuple[Curve, ...]:
    """Published curves over the 24 Kodak images, those of `names` or all; they say nothing about other images."""
    stored = json.loads(files("vaert").joinpath("anchors.json").read_text("utf-8"))
    return tuple(
        Curve(name, tuple(c["bpp"]), tuple(c["psnr"]))
        for name, c in stored["curves"].items()
        if not names or name in names
    )


def pillow_rate_psnr(pixels: npt.NDArray[np.uint8], kind: str, **options: Any) -> tuple[float, float]:
    """Bits per pixel and PSNR in dB of a picture, uint8 (H, W, 3), written by Pillow as `kind` ("JPEG", ...)."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format=kind, **options)
    decoded = np.asarray(Image.open(stream).convert("RGB"))
    return 8 * len(stream.getvalue()) / (pixels.shape[0] * pixels.shape[1]), psnr(pixels, decoded)


def mean_curve(name: str, images: Sequence[Sequence[tuple[float, float]]]) -> Curve:
    """The curve of means over images of (bits per pixel, PSNR) at the same settings, [image][setting]."""
    means = np.asarray(images, np.float64).mean(0)
    return Curve(name, tuple(map(float, means[:, 0])), tuple(map(float, means[:, 1])))
