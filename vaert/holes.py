"""Holes to measure inpainting with: rectangles and strokes of a brush, by seed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["LARGEST_HOLE", "made_hole"]

Mask = npt.NDArray[np.bool_]
LARGEST_HOLE = 0.25  # of the picture's area
RECTANGLES, STROKES, POINTS = 2, 6, 5  # at most; points of a stroke beside its first


def made_hole(height: int, width: int, *, seed: int) -> Mask:
    """A mask, bool (height, width), True where hidden, which is somewhere and in at most a quarter of the picture.

    Rectangles for even seeds, each of 1 to 25 % of the area and sides of 1:2 to 2:1; strokes for odd ones, from a
    sixtieth to a tenth of the shorter side thick. Pictures of less than 2x2 pixels have no such hole.
    """
    rng = np.random.default_rng(seed)
    draw, most = (_rectangle, RECTANGLES) if seed % 2 == 0 else (_stroke, STROKES)
    mask = np.zeros((height, width), np.uint8)
    while not mask.any():
        for _ in range(int(rng.integers(1, most + 1))):
            more = draw(mask, rng)
            if more.mean() > LARGEST_HOLE:
                break
            mask = more
    return mask.astype(np.bool_)


def _rectangle(mask: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """The mask with one more rectangle."""
    height, width = mask.shape
    area, aspect = rng.uniform(0.01, LARGEST_HOLE) * height * width, np.exp(rng.uniform(-np.log(2), np.log(2)))
    high, wide = (max(1, min(s, int(np.sqrt(a)))) for s, a in ((height, area * aspect), (width, area / aspect)))
    top, left = int(rng.integers(height - high + 1)), int(rng.integers(width - wide + 1))
    found = mask.copy()
    found[top : top + high, left : left + wide] = 1
    return found


def _stroke(mask: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """The mask with one more broken line."""
    import cv2

    height, width = mask.shape
    short = min(height, width)
    points = [rng.integers((width, height))]
    for _ in range(int(rng.integers(1, POINTS + 1))):
        points.append(points[-1] + rng.integers(-(short // 3), short // 3 + 1, size=2))
    thickness = int(rng.integers(max(1, short // 60), max(2, short // 10) + 1))
    return np.asarray(cv2.polylines(mask.copy(), [np.array(points, np.int32)], False, 1, thickness), np.uint8)
