"""Damaged pictures to train a restorer on: compression by JPEG and WebP at random qualities, and random holes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from vaert.trainer.data import Pictures

Pixels = npt.NDArray[np.uint8]
GRID = 8  # pixels; JPEG's blocks
# Shares of the crops: damaged and whole, clean with a hole, both, and clean and whole (to learn to leave things alone).
DAMAGED, HIDDEN, BOTH = 0.5, 0.3, 0.15
WEBP = 0.15  # of damaged crops; the others are JPEG
ALIGNED = 0.8  # of damaged crops: the grid starts at the crop's corner, as in whole pictures
CHROMA_HALVED = 0.85  # of JPEGs: 4:2:0, the others 4:4:4
LOW, HIGH = 5, 95  # qualities; three in four are at most MIDDLE
MIDDLE, OFTEN = 60, 0.75
LARGEST_HOLE = 0.25  # of the crop's area
STROKES = 6


class DamagedPictures(Pictures):
    """`Pictures` whose batches carry clean crop, damaged crop and mask: uint8 (count, crop, crop, 3 + 3 + 1)."""

    @staticmethod
    def load(folders: Iterable[str | Path], *, shard: tuple[int, int] = (0, 1), quiet: bool = False) -> DamagedPictures:
        """See `Pictures.load`."""
        pictures = Pictures.load(folders, shard=shard, quiet=quiet)
        return DamagedPictures(pictures.items, pictures.held_out)

    def batch(self, rng: np.random.Generator, count: int, crop: int) -> Pixels:
        """Random crops with random damage; the mask is 1 where hidden, and 0."""
        return np.stack([_damaged(self._crop(rng, crop + GRID), rng) for _ in range(count)])


def _damaged(large: Pixels, rng: np.random.Generator) -> Pixels:
    """One crop of a batch, from one that is GRID larger each way."""
    kind, side = rng.random(), large.shape[0] - GRID
    compressed = kind < DAMAGED or DAMAGED + HIDDEN <= kind < DAMAGED + HIDDEN + BOTH
    top, left = (0, 0) if rng.random() < ALIGNED else rng.integers(GRID, size=2)
    inside = slice(top, top + side), slice(left, left + side)
    clean = large[inside]
    damaged = compress(large, rng)[inside] if compressed else clean
    hole = hidden(side, rng) if DAMAGED <= kind < DAMAGED + HIDDEN + BOTH else np.zeros((side, side), np.uint8)
    return np.concatenate([clean, damaged, hole[..., None]], 2)


def compress(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Pixels, RGB (H, W, 3), as they come back from a JPEG or WebP file of random quality."""
    quality = int(rng.integers(LOW, MIDDLE + 1) if rng.random() < OFTEN else rng.integers(MIDDLE, HIGH + 1))
    kind, options = ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality]
    if rng.random() < WEBP:
        kind, options = ".webp", [cv2.IMWRITE_WEBP_QUALITY, quality]
    elif rng.random() < CHROMA_HALVED:
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    else:
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    data = cv2.imencode(kind, np.ascontiguousarray(pixels[..., ::-1]), options)[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)[..., ::-1]


def hidden(side: int, rng: np.random.Generator) -> Pixels:
    """A mask of 0 and 1, uint8 (side, side): a rectangle or free-form strokes, at most about a quarter of the area."""
    mask = np.zeros((side, side), np.uint8)
    if rng.random() < 0.4:
        area, aspect = rng.uniform(0.01, LARGEST_HOLE), np.exp(rng.uniform(-0.8, 0.8))
        height, width = (max(2, min(side, int(side * np.sqrt(area * a)))) for a in (aspect, 1 / aspect))
        top, left = rng.integers(side - height + 1), rng.integers(side - width + 1)
        mask[top : top + height, left : left + width] = 1
        return mask
    for _ in range(int(rng.integers(1, STROKES + 1))):
        stroke = mask.copy()
        points = [rng.integers(side, size=2)]
        for _ in range(int(rng.integers(1, 6))):
            points.append(points[-1] + rng.integers(-side // 3, side // 3 + 1, size=2))
        thickness = int(rng.integers(2, max(4, side // 8)))
        cv2.polylines(stroke, [np.array(points, np.int32)], False, 1, thickness)
        if stroke.mean() > LARGEST_HOLE:
            break
        mask = stroke
    return mask
