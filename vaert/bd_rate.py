"""BD-rate: by how much one codec's files differ in size from another's at the same PSNR."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from vaert.errors import DataError


@dataclass(frozen=True)
class Curve:
    """Rate-distortion points of one codec, each a mean over the same images: bits per pixel and PSNR in dB."""

    name: str
    bpp: tuple[float, ...]
    psnr: tuple[float, ...]


@dataclass(frozen=True)
class BdRate:
    """Mean difference in rate over low..high dB, in percent (-20: a fifth less). `complete`: all that was asked for."""

    percent: float
    low: float
    high: float
    complete: bool


def psnr_interval(reference: Curve, low_bpp: float, high_bpp: float) -> tuple[float, float, bool]:
    """PSNR in dB at which `reference` spends two rates: PCHIP of PSNR over log(bpp).

    Returns:
        The lower and upper end, and whether the curve reaches both rates; where it does not, its own end stands in.

    Raises:
        DataError: the curve has fewer than two points or two of the same rate, or lies outside the two rates.
    """
    psnr_of = _pchip(reference.name, [math.log(rate) for rate in reference.bpp], reference.psnr, what="rate")
    first, last = min(reference.bpp), max(reference.bpp)
    low, high = max(low_bpp, first), min(high_bpp, last)
    if low >= high:
        raise DataError(
            f"{reference.name} spends {first:.3f} to {last:.3f} bpp, expected rates between {low_bpp:g} and "
            f"{high_bpp:g}: measure other qualities"
        )
    return float(psnr_of(math.log(low))), float(psnr_of(math.log(high))), first <= low_bpp and last >= high_bpp


def bd_rate(reference: Curve, test: Curve, *, interval: tuple[float, float]) -> BdRate:
    """BD-rate of `test` against `reference` over the part of `interval` (dB) that both curves cover.

    The method is Bjontegaard's (ITU-T VCEG-M33) with a shape-preserving cubic (PCHIP) of log(bpp) over PSNR in place
    of one cubic through all points, as in ITU-T HSTP-VID-WPOM.

    Raises:
        DataError: a curve has fewer than two points or two of the same PSNR, or nothing of the interval is covered.
    """
    low = max(interval[0], min(reference.psnr), min(test.psnr))
    high = min(interval[1], max(reference.psnr), max(test.psnr))
    if not low < high:
        raise DataError(
            f"{test.name} and {reference.name} share no PSNR between {interval[0]:.2f} and {interval[1]:.2f} dB: "
            "measure more qualities"
        )
    areas = [
        float(_pchip(curve.name, curve.psnr, [math.log(rate) for rate in curve.bpp], what="PSNR").integrate(low, high))
        for curve in (reference, test)
    ]
    percent = 100 * math.expm1((areas[1] - areas[0]) / (high - low))
    return BdRate(percent, low, high, complete=low <= interval[0] and high >= interval[1])


def _pchip(name: str, x: list[float] | tuple[float, ...], y: list[float] | tuple[float, ...], *, what: str) -> Any:
    """Shape-preserving cubic through the points, sorted by x."""
    from scipy.interpolate import PchipInterpolator

    if len(x) < 2:
        raise DataError(f"{name} has {len(x)} point, expected at least two: measure more qualities")
    order = np.argsort(np.asarray(x, np.float64), kind="stable")
    abscissa = np.asarray(x, np.float64)[order]
    if not (np.diff(abscissa) > 0).all():
        raise DataError(f"{name} has two points of the same {what}, expected distinct ones: leave one out")
    return PchipInterpolator(abscissa, np.asarray(y, np.float64)[order], extrapolate=False)
