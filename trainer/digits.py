"""Handwritten digits to train on: the IDX files of MNIST, slightly distorted so that few of them go a long way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import click
import cv2
import numpy as np
import numpy.typing as npt

from vaert.errors import DataError
from vaert.idx import load_split

DISTORTED = 0.6  # share of the digits of a batch
# Standard deviations of the affine distortion: radians, share of the size, share of the width per height, pixels.
ROTATION, SIZE, ASPECT, SHEAR, SHIFT = 0.06, 0.036, 0.024, 0.06, 0.34


@dataclass(frozen=True)
class DigitSet:
    """The digits of one process, uint8 (N, 28, 28)."""

    digits: npt.NDArray[np.uint8]

    @staticmethod
    def load(folders: Iterable[str | Path], *, shard: tuple[int, int] = (0, 1), quiet: bool = False) -> DigitSet:
        """The training part of the IDX files in one folder; `shard` (rank, world) takes every world-th digit.

        DataError if there is more than one folder, or what `vaert.idx.load_split` finds wrong.
        """
        chosen = [Path(folder) for folder in folders]
        if len(chosen) != 1:
            raise DataError(f"digits come from one folder of IDX files, found {len(chosen)}: give --data once")
        split = load_split(chosen[0])
        if not quiet:
            click.echo(f"vaert: {split.description}", err=True)
        return DigitSet(split.train[shard[0] :: shard[1]])

    @property
    def count(self) -> int:
        """Digits to draw from."""
        return len(self.digits)

    def batch(self, rng: np.random.Generator, count: int, side: int) -> npt.NDArray[np.uint8]:
        """Random digits, (count, 28, 28), most of them turned, sheared, scaled and shifted a little."""
        chosen = self.digits[rng.integers(len(self.digits), size=count)]
        for number in np.flatnonzero(rng.random(count) < DISTORTED):
            chosen[number] = _distort(chosen[number], rng.standard_normal(6))
        return chosen


def _distort(digit: npt.NDArray[np.uint8], normal: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    angle, size, aspect = ROTATION * normal[0], 1 + SIZE * normal[1], 1 + ASPECT * normal[2]
    c, s = np.cos(angle), np.sin(angle)
    matrix = np.array([[c * size * aspect, SHEAR * normal[3] - s * size], [s * size, c * size / aspect]])
    middle = (np.array(digit.shape) - 1) / 2
    offset = middle - matrix @ middle + SHIFT * normal[4:6]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(digit, np.column_stack([matrix, offset]), digit.shape[::-1], flags=flags)
    return np.asarray(warped, np.uint8)
