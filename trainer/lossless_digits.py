"""Digits as they are, for models that must know their grey values: distorting a scanned digit changes those."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vaert.trainer.digits import DigitSet


class PlainDigits(DigitSet):
    """The digits of one process, uint8 (N, 28, 28), drawn undistorted."""

    @staticmethod
    def load(folders: Iterable[str | Path], *, shard: tuple[int, int] = (0, 1), quiet: bool = False) -> PlainDigits:
        """See `DigitSet.load`."""
        return PlainDigits(DigitSet.load(folders, shard=shard, quiet=quiet).digits)

    def batch(self, rng: np.random.Generator, count: int, side: int) -> npt.NDArray[np.uint8]:
        """Random digits, (count, 28, 28)."""
        return self.digits[rng.integers(len(self.digits), size=count)]
