"""Distortion between two pictures: PSNR and MS-SSIM."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from vaert.errors import OptionError

Pixels = npt.NDArray[np.uint8]
Plane = npt.NDArray[np.float64]

PSNR_MAX = 100.0
"""What `psnr` says of identical pictures, in dB, so that means stay finite."""

# Wang, Simoncelli, Bovik: Multi-scale structural similarity for image quality assessment (2003), section 4.
_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_WINDOW, _SIGMA = 11, 1.5
MS_SSIM_SIDE = (_WINDOW - 1) * 2 ** (len(_WEIGHTS) - 1) + 1
"""Shortest side in pixels for which the window fits at all five scales."""


def psnr(original: Pixels, decoded: Pixels) -> float:
    """PSNR in dB over all samples of two uint8 arrays of one shape, at most PSNR_MAX. OptionError on other input."""
    _check(original, decoded)
    difference = original.astype(np.int32) - decoded
    squared = float(np.square(difference, out=difference).mean(dtype=np.float64))
    return PSNR_MAX if squared == 0 else min(PSNR_MAX, 10 * math.log10(255**2 / squared))


def ms_ssim(original: Pixels, decoded: Pixels) -> float | None:
    """MS-SSIM, up to 1, of two pictures, uint8 (H, W) or (H, W, C): the mean over channels.

    None if a side is shorter than MS_SSIM_SIDE. OptionError if types or shapes differ.
    """
    _check(original, decoded)
    if min(original.shape[:2]) < MS_SSIM_SIDE:
        return None
    height, width = original.shape[:2]
    x, y = (array.reshape(height, width, -1).astype(np.float64) for array in (original, decoded))
    return float(np.mean([_ms_ssim_plane(x[..., c].copy(), y[..., c].copy()) for c in range(x.shape[2])]))


def _check(original: Pixels, decoded: Pixels) -> None:
    if original.shape != decoded.shape or original.dtype != np.uint8 or decoded.dtype != np.uint8:
        raise OptionError(
            f"expected two uint8 pictures of one shape, found {original.dtype} {original.shape} and "
            f"{decoded.dtype} {decoded.shape}: convert them first"
        )


def _ms_ssim_plane(x: Plane, y: Plane) -> float:
    """Equation 7 of the paper: contrast and structure at every scale, luminance at the coarsest only."""
    result = 1.0
    for scale, weight in enumerate(_WEIGHTS):
        luminance, contrast_structure = _ssim_terms(x, y)
        last = scale == len(_WEIGHTS) - 1
        term = float((luminance * contrast_structure).mean() if last else contrast_structure.mean())
        result *= max(term, 0.0) ** weight  # a negative mean (anti-correlated pictures) has no real power
        x, y = _halved(x), _halved(y)
    return result


def _ssim_terms(x: Plane, y: Plane) -> tuple[Plane, Plane]:
    """Luminance term and contrast-structure term of SSIM, (H - 10, W - 10) each."""
    mean_x, mean_y = _blurred(x), _blurred(y)
    variance_x = _blurred(x * x) - mean_x * mean_x
    variance_y = _blurred(y * y) - mean_y * mean_y
    covariance = _blurred(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x * mean_x + mean_y * mean_y + _C1)
    return luminance, (2 * covariance + _C2) / (variance_x + variance_y + _C2)


def _blurred(plane: Plane) -> Plane:
    """Gaussian window, only where it lies inside the picture."""
    import cv2

    distance = np.arange(_WINDOW) - _WINDOW // 2
    kernel = np.exp(-(distance**2) / (2 * _SIGMA**2))
    kernel /= kernel.sum()
    edge = _WINDOW // 2
    return np.asarray(cv2.sepFilter2D(plane, cv2.CV_64F, kernel, kernel)[edge:-edge, edge:-edge], np.float64)


def _halved(plane: Plane) -> Plane:
    """Mean of 2x2 samples; an odd last row or column is repeated."""
    height, width = plane.shape
    even = np.pad(plane, ((0, height % 2), (0, width % 2)), mode="edge")
    return (even[0::2, 0::2] + even[1::2, 0::2] + even[0::2, 1::2] + even[1::2, 1::2]) / 4
