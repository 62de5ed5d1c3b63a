"""Reaching a rate or a quality: search over the header's quality steps, without running the encoder network again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

from vaert.errors import OptionError, TargetError
from vaert.runtime.codec import QUALITY_STEPS, Analysed, Codec
from vaert.tables import QUALITY_MAX, QUALITY_MIN

LOWEST, HIGHEST = round(QUALITY_MIN * QUALITY_STEPS), round(QUALITY_MAX * QUALITY_STEPS)
TOLERANCE = 0.02  # of a rate
PSNR_ABOVE = 0.1  # dB
NEIGHBOURS = 24  # quality steps tried around the search's answer where the curve is not monotone
SMALL = 1 << 16  # pixels; up to here the whole range is sampled when the search misses

Curve = Callable[[int], float]  # of a header quality


@dataclass(frozen=True)
class Goal:
    """A target with what counts as a hit.

    Small or flat pictures have fewer distinct files than a tolerance needs. Where no quality hits a target that lies
    within the reachable range, the nearest value on the allowed side is the answer.
    """

    option: str  # size, bpp or psnr
    target: float
    low: float  # values in low..high are hits
    high: float
    side: int  # -1: never above the target, 1: never below, 0: either

    def hit(self, value: float) -> bool:
        """Whether a value is near enough."""
        return self.low <= value <= self.high

    def miss(self, value: float) -> float:
        """Distance from the target, infinite on the wrong side."""
        return math.inf if self.side * (value - self.target) < 0 else abs(value - self.target)

    def out_of_range(self, low: float, high: float) -> TargetError:
        """The error that names what can be reached."""
        style, unit = {"size": (".0f", "bytes"), "bpp": (".4g", "bits per pixel"), "psnr": (".4g", "dB")}[self.option]
        reachable = f"{low:{style}} to {high:{style}} {unit}"
        return TargetError(f"--{self.option} {self.target:{style}} cannot be reached: this picture allows {reachable}")


def reach(codec: Codec, picture: Analysed, kind: str, target: float) -> bytes:
    """The file of `picture` that meets a target: kind is `bpp`, `size` or `psnr`.

    OptionError if the target is not a positive number, TargetError with the range that can be reached.
    """
    if not (math.isfinite(target) and target > 0):
        raise OptionError(f"{kind} must be a positive number, not {target:g}")
    if kind == "psnr":
        return _reach_psnr(codec, picture, target)
    return _reach_rate(codec, picture, kind, target)


def _reach_rate(codec: Codec, picture: Analysed, kind: str, target: float) -> bytes:
    """The largest file of at most that many bytes, or the one nearest to that many bits per pixel."""

    @lru_cache(maxsize=4)
    def file(quality: int) -> bytes:
        return codec.write(picture, codec.attempt(picture, quality))

    def counted(quality: int) -> float:
        return codec.bits(codec.attempt(picture, quality)) / 8

    unit = 1.0 if kind == "size" else 8 / _pixels(picture)
    # Counted bits and real bytes differ by a constant (headers, CRCs, alpha, coder state) but for rounding.
    overhead = len(file(LOWEST)) - counted(LOWEST)
    high = target if kind == "size" else target * (1 + TOLERANCE)
    goal = Goal(kind, target, target * (1 - TOLERANCE), high, side=-1 if kind == "size" else 0)
    small = _pixels(picture) <= SMALL
    quality = _search(
        lambda q: len(file(q)) * unit,
        goal,
        estimate=lambda q: (counted(q) + overhead) * unit,
        thorough=small,
    )
    return file(quality)


def _reach_psnr(codec: Codec, picture: Analysed, target: float) -> bytes:
    """The file whose decoded picture is at least as near to the original as asked, and not much nearer."""
    original = picture.colour.astype(np.int32)

    @cache
    def psnr(quality: int) -> float:
        decoded = codec.reconstruct(picture, codec.attempt(picture, quality)).astype(np.int32)
        error = float(np.square(decoded.reshape(*original.shape[:2], -1) - original).mean())
        return 10 * math.log10(255**2 / error) if error else math.inf

    goal = Goal("psnr", target, target, target + PSNR_ABOVE, side=1)
    quality = _search(psnr, goal, estimate=psnr, thorough=_pixels(picture) <= SMALL)
    return codec.write(picture, codec.attempt(picture, quality))


def _pixels(picture: Analysed) -> int:
    height, width, _ = picture.colour.shape
    return int(height * width)


def _search(measure: Curve, goal: Goal, *, estimate: Curve, thorough: bool) -> int:
    """A quality whose value hits the goal, else the nearest. `estimate` is a cheaper, nearly equal `measure`."""
    found = {quality: measure(quality) for quality in (LOWEST, HIGHEST)}
    if thorough or (min(found.values()) <= goal.high and goal.low <= max(found.values())):
        last = _last_at_most(estimate, goal.target)
        start = min(HIGHEST, last + 1) if goal.side > 0 else last
        near = range(max(LOWEST, start - NEIGHBOURS), min(HIGHEST, start + NEIGHBOURS) + 1)
        wide = range(LOWEST, HIGHEST + 1, QUALITY_STEPS) if thorough else ()
        order: list[int] = [*sorted(near, key=lambda q: abs(q - start)), LOWEST, HIGHEST, *wide]
        for quality in order:
            found[quality] = measure(quality)
            if goal.hit(found[quality]):
                return quality
    low, high = min(found.values()), max(found.values())
    if not low <= goal.target <= high:
        raise goal.out_of_range(low, high)
    return min(found, key=lambda q: (goal.miss(found[q]), goal.side * q))


def _last_at_most(curve: Curve, limit: float) -> int:
    """Bisection for the last quality at which a rising curve is at most `limit`; LOWEST if none is."""
    low, high = LOWEST, HIGHEST + 1
    while high - low > 1:
        middle = (low + high) // 2
        if curve(middle) <= limit:
            low = middle
        else:
            high = middle
    return low
