"""Bicubic resampling as MATLAB's `imresize` does it: the convention of super-resolution's training and test pictures.

Cubic kernel with a = -1/2 (Keys, "Cubic convolution interpolation for digital image processing", 1981, eq. 15),
widened by the factor when shrinking (antialiasing), the edge sample repeated beyond the edge. Axis 0 comes before
axis 1 and the picture is rounded to bytes after each, halves upwards: so the small pictures of Set5, Set14 and BSD100
are reproduced without a single differing sample.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from vaert.errors import OptionError

__all__ = ["axis_matrix", "axis_taps", "downscale", "upscale"]

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
_REACH = 2.0  # half the kernel's support, in samples of the coarser grid
_BAND = 256  # output rows at a time: bounds the memory of floating-point copies


def downscale(pixels: Pixels, factor: int) -> Pixels:
    """Picture `factor` times smaller, uint8 (H, W) or (H, W, C) -> (H / factor, W / factor[, C]), antialiased.

    Raises:
        OptionError: not a uint8 picture, `factor` below 1, or sides that `factor` does not divide.
    """
    height, width = _check(pixels, factor)
    if height % factor or width % factor:
        raise OptionError(
            f"a picture of {width}x{height} pixels cannot be shrunk by {factor}: "
            f"crop it to {width - width % factor}x{height - height % factor} first"
        )
    return _resized(pixels, height // factor, width // factor)


def upscale(pixels: Pixels, factor: int) -> Pixels:
    """Picture `factor` times larger, uint8 (H, W) or (H, W, C) -> (H factor, W factor[, C]).

    Raises:
        OptionError: not a uint8 picture, or `factor` below 1.
    """
    height, width = _check(pixels, factor)
    return _resized(pixels, height * factor, width * factor)


@lru_cache(maxsize=32)
def axis_taps(size: int, out_size: int) -> tuple[npt.NDArray[np.int64], Floats]:
    """Taps of every output sample along one axis: indices in 0..size - 1 and weights of sum 1, (out_size, taps)."""
    ratio = out_size / size
    stretch = min(1.0, ratio)
    centre = (np.arange(out_size) + 0.5) / ratio - 0.5
    first = np.floor(centre - _REACH / stretch).astype(np.int64)
    indices = first[:, None] + np.arange(math.ceil(2 * _REACH / stretch) + 2)
    weights = _cubic((centre[:, None] - indices) * stretch)
    weights /= weights.sum(1, keepdims=True)
    used = weights.any(0)
    return np.clip(indices, 0, size - 1)[:, used], weights[:, used]


def axis_matrix(size: int, out_size: int) -> Floats:
    """The resampling of one axis as a matrix (out_size, size), rows of sum 1."""
    indices, weights = axis_taps(size, out_size)
    matrix = np.zeros((out_size, size))
    np.add.at(matrix, (np.arange(out_size)[:, None], indices), weights)
    return matrix


def _cubic(x: Floats) -> Floats:
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.asarray(np.where(x <= 1, near, np.where(x <= 2, far, 0.0)), np.float64)


def _check(pixels: Pixels, factor: int) -> tuple[int, int]:
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or not pixels.size:
        raise OptionError(
            f"a picture must be uint8 (height, width[, channels]) and not empty, "
            f"found {pixels.dtype} {pixels.shape}: convert it first"
        )
    if factor < 1:
        raise OptionError(f"the factor must be a whole number of at least 1, found {factor}")
    return pixels.shape[0], pixels.shape[1]


def _resized(pixels: Pixels, height: int, width: int) -> Pixels:
    rows = _along_rows(pixels, height)
    return np.ascontiguousarray(_along_rows(rows.swapaxes(0, 1), width).swapaxes(0, 1))


def _along_rows(pixels: Pixels, out_size: int) -> Pixels:
    """Axis 0 resampled and rounded."""
    if out_size == pixels.shape[0]:
        return pixels
    indices, weights = axis_taps(pixels.shape[0], out_size)
    result = np.empty((out_size, *pixels.shape[1:]), np.uint8)
    for start in range(0, out_size, _BAND):
        band = slice(start, start + _BAND)
        total = np.zeros((len(indices[band]), *pixels.shape[1:]))
        for column in range(indices.shape[1]):
            weight = weights[band, column].reshape(-1, *[1] * (pixels.ndim - 1))
            total += pixels[indices[band, column]] * weight
        result[band] = np.clip(np.floor(total + 0.5), 0, 255).astype(np.uint8)
    return result
