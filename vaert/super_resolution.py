"""How super-resolution is measured: folders of HR and LR pictures, PSNR on Y with shaved borders.

The conventions are the literature's (Timofte et al., "A+: Adjusted Anchored Neighborhood Regression for Fast
Super-Resolution", ACCV 2014, and every paper since): luma of BT.601 in studio range, rounded to bytes as MATLAB's
`rgb2ycbcr` does, a grey picture's samples as they are, and `scale` pixels cut off at every edge.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vaert.errors import DataError, OptionError
from vaert.evaluate import find_images
from vaert.image import read_image
from vaert.metrics import psnr
from vaert.resample import downscale

__all__ = ["Pair", "crop_to_multiple", "find_pairs", "luma", "luma_psnr", "read_pair"]

Pixels = npt.NDArray[np.uint8]
LARGE_FOLDER = "HR"
_BT601 = np.array([65.481, 128.553, 24.966]) / 255


@dataclass(frozen=True)
class Pair:
    """A large picture and its small one; `small` is None where the small one is still to be made."""

    name: str
    large: Path
    small: Path | None
    scale: int


def luma(pixels: Pixels) -> Pixels:
    """Y of BT.601, 16..235, of uint8 RGB (H, W, 3), rounded; grey (H, W) is returned as it is. OptionError else."""
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise OptionError(
            f"luma takes uint8 pictures (H, W) or (H, W, 3), found {pixels.dtype} {pixels.shape}: "
            "drop the alpha channel"
        )
    if pixels.ndim == 2:
        return pixels
    return np.floor(16.5 + pixels @ _BT601).astype(np.uint8)


def luma_psnr(large: Pixels, result: Pixels, *, shave: int) -> float:
    """PSNR in dB on Y, `shave` pixels cut off at every edge, at most PSNR_MAX.

    A result that is larger than `large` is first cropped to it from the top left corner (see `read_pair`).

    Raises:
        OptionError: a picture of another kind, a result smaller than `large`, or nothing left after shaving.
    """
    height, width = large.shape[:2]
    if shave < 0 or min(height, width) <= 2 * shave:
        raise OptionError(f"shaving {shave} pixels leaves nothing of a {width}x{height} picture: shave less than half")
    if result.shape[0] < height or result.shape[1] < width or result.ndim != large.ndim:
        raise OptionError(f"expected a result of at least shape {large.shape}, found {result.shape}: check the scale")
    inside = slice(shave, height - shave), slice(shave, width - shave)
    return psnr(luma(large)[inside], luma(result)[inside])


def crop_to_multiple(pixels: Pixels, scale: int) -> Pixels:
    """Top left part of (H, W[, C]) whose sides are multiples of `scale`. OptionError if a side is shorter than it."""
    height, width = (side - side % scale for side in pixels.shape[:2])
    if not height or not width:
        raise OptionError(
            f"a picture of {pixels.shape[1]}x{pixels.shape[0]} pixels is too small for scale {scale}: "
            f"expected at least {scale}x{scale}"
        )
    return pixels[:height, :width]


def find_pairs(folder: Path, scale: int) -> list[Pair]:
    """Pairs in `folder`, sorted by name.

    Either `folder/HR` and `folder/LRx{scale}` hold pictures of the same names, or `folder` (or `folder/HR` alone) holds
    large pictures, whose small ones are made by bicubic down-scaling.

    Raises:
        DataError: no pictures, or a large or small one without its counterpart.
    """
    large = folder / LARGE_FOLDER
    if not large.is_dir():
        return [Pair(path.stem, path, None, scale) for path in find_images(folder)]
    names = {path.stem: path for path in find_images(large)}
    small = folder / f"LRx{scale}"
    if not small.is_dir():
        return [Pair(name, path, None, scale) for name, path in names.items()]
    others = {path.stem: path for path in find_images(small)}
    if unmatched := sorted(names.keys() ^ others.keys()):
        raise DataError(
            f"{large} and {small} do not hold the same pictures: {unmatched[0]} is only in one of them; "
            "add or remove it"
        )
    return [Pair(name, path, others[name], scale) for name, path in names.items()]


def read_pair(pair: Pair) -> tuple[Pixels, Pixels]:
    """Large and small picture, uint8 (H, W) or (H, W, 3) each, both grey or both RGB.

    The small one covers the large one and at most `scale` pixels beyond its right and lower edge: well-known test sets
    were cropped after their small pictures had been made. Enlarge it whole and crop the result.

    Raises:
        ImageError: an unreadable picture.
        DataError: an alpha channel, or sizes that do not belong together.
    """
    large = _read(pair.large)
    if pair.small is None:
        large = crop_to_multiple(large, pair.scale)
        return large, downscale(large, pair.scale)
    small = _read(pair.small)
    if small.ndim != large.ndim:
        small, large = (np.repeat(p[..., None], 3, 2) if p.ndim == 2 else p for p in (small, large))
    beyond = [pair.scale * s - b for s, b in zip(small.shape[:2], large.shape[:2], strict=True)]
    if not all(0 <= excess <= pair.scale for excess in beyond):
        sizes = [f"{p.shape[1]}x{p.shape[0]}" for p in (small, large)]
        raise DataError(
            f"{pair.small} has {sizes[0]} pixels, {pair.large} {sizes[1]}: "
            f"expected the former to be the latter divided by {pair.scale}; make it anew"
        )
    return large, small


def _read(path: Path) -> Pixels:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; check the file") from error
    pixels = read_image(data, name=str(path)).pixels
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        raise DataError(f"{path} has an alpha channel, expected grey or RGB pictures: flatten it or take it out")
    return pixels
