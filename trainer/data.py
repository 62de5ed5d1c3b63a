"""Training pictures: any folder tree, decoded once into memory where it fits, cropped at random per step."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import numpy.typing as npt

from vaert.errors import DataError, VaertError
from vaert.image import read_image

Pixels = npt.NDArray[np.uint8]
ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm"}
SMALLEST_SIDE = 64
HELD_OUT_EVERY = 64  # one picture in so many is kept for the plot at the end


def find_pictures(folders: Iterable[str | Path]) -> list[Path]:
    """Every picture below the folders, sorted; DataError if a folder is missing or holds none."""
    found: list[Path] = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise DataError(f"{folder} is not a folder; --data takes a folder of pictures")
        here = sorted(p for p in folder.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file())
        if not here:
            raise DataError(f"{folder} holds no pictures ({', '.join(sorted(ENDINGS))})")
        found += here
    return found


def load_rgb(path: Path) -> Pixels:
    """One picture as RGB, uint8 (H, W, 3); grey is repeated, alpha dropped. ImageError if it cannot be read."""
    pixels = read_image(path.read_bytes(), name=str(path)).pixels
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    colour = pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., :1].repeat(3, axis=2)
    return np.ascontiguousarray(colour)


def _memory_budget() -> int:
    """Half of the free memory, in bytes."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


@dataclass(frozen=True)
class Pictures:
    """Training pictures: pixels for those that fit in memory, paths for the rest."""

    items: Sequence[Pixels | Path]
    held_out: Sequence[Pixels]

    @staticmethod
    def load(folders: Iterable[str | Path], *, shard: tuple[int, int] = (0, 1), quiet: bool = False) -> Pictures:
        """Read every picture once; unreadable and too small ones are named on stderr and skipped.

        `shard` (rank, world) takes every world-th picture. DataError if none is left.
        """
        paths = find_pictures(folders)
        budget, items, held_out = _memory_budget() // shard[1], list[Pixels | Path](), list[Pixels]()
        with _bar(paths[shard[0] :: shard[1]], quiet=quiet) as mine:
            for number, path in enumerate(mine):
                try:
                    pixels = load_rgb(path)
                except VaertError as error:
                    click.echo(f"vaert: warning: skipped: {error}", err=True)
                    continue
                except OSError as error:
                    click.echo(f"vaert: warning: skipped: {path}: {error.strerror or error}", err=True)
                    continue
                if min(pixels.shape[:2]) < SMALLEST_SIDE:
                    click.echo(f"vaert: warning: skipped: {path} is smaller than {SMALLEST_SIDE} pixels", err=True)
                elif number % HELD_OUT_EVERY == HELD_OUT_EVERY - 1:
                    held_out.append(pixels)
                else:
                    budget -= pixels.nbytes
                    items.append(pixels if budget > 0 else path)
        if not items:
            share = f" for process {shard[0] + 1} of {shard[1]}" if shard[1] > 1 else ""
            where = ", ".join(map(str, folders))
            raise DataError(f"no readable picture of {SMALLEST_SIDE} pixels a side or more in {where}{share}")
        return Pictures(items, held_out or [_pixels(items[0])])

    @property
    def count(self) -> int:
        """Pictures to draw from."""
        return len(self.items)

    def batch(self, rng: np.random.Generator, count: int, crop: int) -> Pixels:
        """Random crops, (count, crop, crop, 3), flipped at random, half of them shrunk by up to two."""
        return np.stack([self._crop(rng, crop) for _ in range(count)])

    def _crop(self, rng: np.random.Generator, crop: int) -> Pixels:
        pixels = _pixels(self.items[int(rng.integers(len(self.items)))])
        height, width = pixels.shape[:2]
        if min(height, width) < crop:
            down, right = max(0, crop - height), max(0, crop - width)
            pixels = _array(cv2.copyMakeBorder(pixels, 0, down, 0, right, cv2.BORDER_REFLECT))
            height, width = pixels.shape[:2]
        largest = min(2.0, min(height, width) / crop)
        side = int(crop * (rng.uniform(1, largest) if rng.random() < 0.5 else 1))
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        part = pixels[top : top + side, left : left + side]
        if side != crop:
            part = _array(cv2.resize(part, (crop, crop), interpolation=cv2.INTER_AREA))
        if rng.random() < 0.5:
            part = part[:, ::-1]
        return part[::-1] if rng.random() < 0.1 else part


def _bar(paths: list[Path], *, quiet: bool) -> AbstractContextManager[Iterable[Path]]:
    if quiet or not sys.stderr.isatty():
        return nullcontext(paths)
    return click.progressbar(paths, label="reading", file=sys.stderr)


def _pixels(item: Pixels | Path) -> Pixels:
    return load_rgb(item) if isinstance(item, Path) else item


def _array(pixels: Any) -> Pixels:
    return np.asarray(pixels, np.uint8)
