"""Rate and distortion of a codec over a folder of images, beside JPEG on the same images and published curves."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vaert.anchors import (
    DRAWN,
    JPEG_OPTIONS,
    JPEG_QUALITIES,
    JPEG_RATES,
    mean_curve,
    pillow_rate_psnr,
    published_curves,
)
from vaert.bd_rate import Curve, bd_rate, psnr_interval
from vaert.errors import DataError, ImageError
from vaert.image import format_from_path, read_image
from vaert.metrics import ms_ssim, psnr

if TYPE_CHECKING:
    from vaert.runtime.codec import Codec

Pixels = npt.NDArray[np.uint8]
QUALITIES = (1.0, 12.0, 23.0, 34.0, 45.0, 56.0, 67.0, 78.0, 89.0, 100.0)
JPEG_NAME = "JPEG (Pillow, 4:2:0, optimised)"
_PUBLISHED = "published curves are means over the 24 Kodak images: BD-rates against them mean nothing on other images"


@dataclass(frozen=True)
class Point:
    """Means over all images at one quality: bits per pixel (of whole files), PSNR in dB (RGB), MS-SSIM.

    ms_ssim is None if an image is too small for its five scales.
    """

    quality: float
    bpp: float
    psnr: float
    ms_ssim: float | None


@dataclass(frozen=True)
class Comparison:
    """BD-rate in percent against one curve over low..high dB; None, and why, where the curves cannot be compared."""

    reference: str
    measured: bool  # on the same images; else published, on Kodak
    percent: float | None
    low: float | None
    high: float | None
    complete: bool  # all of JPEG's interval is covered by both curves
    remark: str


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found."""

    model: str
    model_id: str  # hexadecimal
    images: int
    pixels: int
    points: tuple[Point, ...]
    jpeg: Curve
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """The same as types that JSON knows."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The same for people to read."""
        text = [f"{self.model} (model {self.model_id}), {self.images} images, {self.pixels} pixels"]
        text += [
            f"quality {p.quality:g}: {p.bpp:.3f} bpp, {p.psnr:.2f} dB"
            + (f", MS-SSIM {p.ms_ssim:.4f}" if p.ms_ssim is not None else "")
            for p in self.points
        ]
        for c in self.comparisons:
            found = "no BD-rate" if c.percent is None else f"BD-rate {c.percent:+.1f} %, {c.low:.2f} to {c.high:.2f} dB"
            text.append(f"{c.reference}: {found}" + (f" ({c.remark})" if c.remark else ""))
        return text + [f"note: {note}" for note in self.notes]


def evaluate(
    model: str | os.PathLike[str] | Codec,
    images: Path,
    *,
    qualities: Sequence[float] | None = None,
    plot: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measure `model` over the pictures in the folder `images`; every rate is that of whole .vaert files.

    Args:
        model: a bundled model's name, a package folder, or an opened model.
        images: folder of pictures without alpha; grey ones count as RGB. Subfolders are not looked at.
        qualities: 1..100 each; ten over the whole range by default.
        plot: PNG of the curves to write; it must not exist.
        progress: called with the number of finished images and of all images, after each image.

    Raises:
        DataError: no such folder, or no usable picture in it.
        ImageError, ModelError, BackendError, OptionError, OutputError: as the parts say.
    """
    from vaert.runtime.codec import Codec

    if plot is not None:
        from vaert.atomic import check_output

        check_output(plot, force=False)
    paths = find_images(images)
    chosen = tuple(sorted(set(qualities or QUALITIES)))
    codec = model if isinstance(model, Codec) else Codec(model)
    ours: list[list[tuple[float, float, float | None]]] = []
    jpeg: list[list[tuple[float, float]]] = []
    pixels = 0
    for number, path in enumerate(paths, 1):
        picture = read_rgb(path)
        pixels += picture.shape[0] * picture.shape[1]
        ours.append(measure(codec, picture, chosen))
        jpeg.append([pillow_rate_psnr(picture, "JPEG", quality=q, **JPEG_OPTIONS) for q in JPEG_QUALITIES])
        if progress is not None:
            progress(number, len(paths))
    points = tuple(
        _mean_point(quality, column) for quality, column in zip(chosen, zip(*ours, strict=True), strict=True)
    )
    report = _report(codec, points, mean_curve(JPEG_NAME, jpeg), images=len(paths), pixels=pixels)
    if plot is not None:
        from vaert.plot import write_plot

        curves = [_curve(report.model, points), report.jpeg]
        write_plot(plot, curves, published=published_curves(DRAWN), title=f"{report.model}, {report.images} images")
    return report


def find_images(folder: Path) -> list[Path]:
    """Files in `folder` whose ending is that of a picture, sorted by name. DataError if there are none."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror or error}; check --images") from error
    paths = [path for path in entries if path.is_file() and _is_picture(path)]
    if not paths:
        raise DataError(f"{folder} holds no pictures ({len(entries)} other entries), expected PNG, JPEG or WebP files")
    return paths


def _is_picture(path: Path) -> bool:
    try:
        format_from_path(path)
    except ImageError:
        return False
    return True


def read_rgb(path: Path) -> Pixels:
    """A picture as uint8 RGB (H, W, 3). ImageError if it is unreadable, DataError if it has an alpha channel."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; check the file") from error
    pixels = read_image(data, name=str(path)).pixels
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if channels in (2, 4):
        raise DataError(f"{path} has an alpha channel, expected grey or RGB pictures: flatten it or take it out")
    return np.repeat(pixels[..., None], 3, axis=2) if channels == 1 else pixels


def measure(codec: Codec, picture: Pixels, qualities: Sequence[float]) -> list[tuple[float, float, float | None]]:
    """Bits per pixel, PSNR in dB and MS-SSIM of one picture (H, W, 3) at each quality; the encoder runs once."""
    from vaert.runtime.codec import quality_to_u16

    steps = [quality_to_u16(quality) for quality in qualities]
    analysed = codec.analyse(picture)
    found = []
    for step in steps:
        data = codec.write(analysed, codec.attempt(analysed, step))
        decoded = codec.decompress(data)
        rate = 8 * len(data) / (picture.shape[0] * picture.shape[1])
        found.append((rate, psnr(picture, decoded), ms_ssim(picture, decoded)))
    return found


def _mean_point(quality: float, values: Sequence[tuple[float, float, float | None]]) -> Point:
    similar = [v[2] for v in values if v[2] is not None]
    return Point(
        quality,
        math.fsum(v[0] for v in values) / len(values),
        math.fsum(v[1] for v in values) / len(values),
        math.fsum(similar) / len(similar) if len(similar) == len(values) else None,
    )


def _curve(name: str, points: Sequence[Point]) -> Curve:
    return Curve(name, tuple(p.bpp for p in points), tuple(p.psnr for p in points))


def _report(codec: Codec, points: tuple[Point, ...], jpeg: Curve, **counts: Any) -> Evaluation:
    manifest = codec.package.manifest
    curve = _curve(manifest.name, points)
    comparisons = compare(curve, jpeg, published_curves())
    notes = [_PUBLISHED]
    if any(p.ms_ssim is None for p in points):
        notes.append("no MS-SSIM: an image is too small for its five scales")
    if any(b.bpp <= a.bpp or b.psnr <= a.psnr for a, b in pairwise(points)):
        notes.append("rate or PSNR does not grow with every step of quality")
    return Evaluation(
        model=manifest.name,
        model_id=f"{manifest.model_id:016x}",
        points=points,
        jpeg=jpeg,
        comparisons=comparisons,
        notes=tuple(notes),
        **counts,
    )


def compare(curve: Curve, jpeg: Curve, others: Sequence[Curve], *, measured: bool = False) -> tuple[Comparison, ...]:
    """BD-rates of `curve` against JPEG and `others`, over the PSNRs at which JPEG spends 0.25 to 1.5 bpp.

    measured: whether `others` come from the same images.
    """
    try:
        low, high, reached = psnr_interval(jpeg, *JPEG_RATES)
    except DataError as error:
        return (Comparison(jpeg.name, True, None, None, None, False, str(error)),)
    remark = "" if reached else f"JPEG does not reach all of {JPEG_RATES[0]} to {JPEG_RATES[1]} bpp here"
    return tuple(
        _comparison(reference, curve, interval=(low, high), measured=reference is jpeg or measured, remark=remark)
        for reference in (jpeg, *others)
    )


def _comparison(
    reference: Curve, curve: Curve, *, interval: tuple[float, float], measured: bool, remark: str
) -> Comparison:
    try:
        found = bd_rate(reference, curve, interval=interval)
    except DataError as error:
        return Comparison(reference.name, measured, None, None, None, False, str(error))
    remarks = [remark] if remark else []
    if not found.complete:
        remarks.append(f"the curves share only part of {interval[0]:.2f} to {interval[1]:.2f} dB")
    complete = not remarks
    return Comparison(reference.name, measured, found.percent, found.low, found.high, complete, "; ".join(remarks))
