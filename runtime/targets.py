"""Reaching a rate or a quality: search over the header's quality steps, without running the encoder network again."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from vaert.errors import OptionError, TargetError
from vaert.runtime.codec import QUALITY_STEPS, Analysed, Attempt, Codec
from vaert.tables import QUALITY_MAX, QUALITY_MIN

LOWEST, HIGHEST = round(QUALITY_MIN * QUALITY_STEPS), round(QUALITY_MAX * QUALITY_STEPS)
TOLERANCE = 0.02  # of a rate
PSNR_ABOVE = 0.1  # dB
NEIGHBOURS = 24  # quality steps tried around the search's answer where the curve is not monotone


def reach(codec: Codec, picture: Analysed, kind: str, target: float) -> bytes:
    """The file of `picture` that meets a target: kind is `bpp`, `size` or `psnr`.

    OptionError if the target is not a positive number, TargetError with the range that can be reached.
    """
    if not (math.isfinite(target) and target > 0):
        raise OptionError(f"{kind} must be a positive number, not {target:g}")
    if kind == "psnr":
        return _reach_psnr(codec, picture, target)
    pixels = picture.colour.shape[0] * picture.colour.shape[1]
    return _reach_size(codec, picture, target if kind == "size" else target * pixels / 8, strict=kind == "size")


def _reach_size(codec: Codec, picture: Analysed, size: float, *, strict: bool) -> bytes:
    """Largest file of at most `size` bytes, or, if not strict, the nearest one."""

    @lru_cache(maxsize=2)
    def attempt(quality: int) -> Attempt:
        return codec.attempt(picture, quality)

    @lru_cache(maxsize=None)
    def file(quality: int) -> bytes:
        return codec.write(picture, attempt(quality))

    # Counted bits and real bytes differ by a constant (headers, CRCs, alpha, coder state) but for rounding.
    middle = (LOWEST + HIGHEST) // 2
    overhead = len(file(middle)) - attempt(middle).bits / 8
    best = _last_at_most(lambda q: attempt(q).bits / 8 + overhead, size)
    near = [q for q in range(best - NEIGHBOURS, best + NEIGHBOURS + 1) if LOWEST <= q <= HIGHEST]
    for quality in sorted(near, key=lambda q: abs(q - best)):
        found = len(file(quality))
        if found <= size * (1 if strict else 1 + TOLERANCE / 4) and found >= size * (1 - TOLERANCE):
            return file(quality)
    if strict and best in (LOWEST, HIGHEST) and len(file(HIGHEST)) <= size:
        raise _out_of_range("size", size, len(file(LOWEST)), len(file(HIGHEST)), "bytes")
    pixels = picture.colour.shape[0] * picture.colour.shape[1]
    low, high = len(file(LOWEST)), len(file(HIGHEST))
    if strict:
        raise _out_of_range("size", size, low, high, "bytes")
    raise _out_of_range("bpp", size * 8 / pixels, low * 8 / pixels, high * 8 / pixels, "bits per pixel")


def _reach_psnr(codec: Codec, picture: Analysed, target: float) -> bytes:
    """Smallest quality whose decoded picture is at least as near to the original as asked."""
    original = picture.colour.astype(np.int32)

    @lru_cache(maxsize=None)
    def psnr(quality: int) -> float:
        decoded = codec.reconstruct(picture, codec.attempt(picture, quality)).astype(np.int32)
        error = float(np.square(decoded.reshape(*original.shape[:2], -1) - original).mean())
        return 10 * math.log10(255**2 / error) if error else math.inf

    first = min(HIGHEST, _last_at_most(psnr, target) + 1)
    for quality in sorted(range(first - NEIGHBOURS, first + NEIGHBOURS + 1), key=lambda q: abs(q - first)):
        if LOWEST <= quality <= HIGHEST and target <= psnr(quality) <= target + PSNR_ABOVE:
            return codec.write(picture, codec.attempt(picture, quality))
    raise _out_of_range("psnr", target, psnr(LOWEST), psnr(HIGHEST), "dB")


def _last_at_most(curve: Callable[[int], float], limit: float) -> int:
    """Bisection for the last quality at which a rising curve is at most `limit`; LOWEST if none is."""
    low, high = LOWEST, HIGHEST + 1
    while high - low > 1:
        middle = (low + high) // 2
        if curve(middle) <= limit:
            low = middle
        else:
            high = middle
    return low


def _out_of_range(kind: str, target: float, low: float, high: float, unit: str) -> TargetError:
    return TargetError(f"--{kind} {target:g} cannot be reached with this picture: {low:.4g} to {high:.4g} {unit} can")
