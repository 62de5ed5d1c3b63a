"""Tiles with a halo: networks see as much around each tile as can reach its pixels, so tiles change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Span:
    """One axis of a tile, in pixels: `core` is what it is responsible for, `outer` what it must see."""

    core: slice
    outer: slice

    def inner(self, stride: int = 1) -> slice:
        """The core within the outer part, in units of `stride` pixels."""
        return slice((self.core.start - self.outer.start) // stride, (self.core.stop - self.outer.start) // stride)


def scaled(span: slice, stride: int) -> slice:
    """A pixel span that starts and ends on multiples of `stride`, in units of `stride` pixels."""
    return slice(span.start // stride, span.stop // stride)


def enlarged(span: slice, scale: int) -> slice:
    """The same span of a picture that is `scale` times larger."""
    return slice(span.start * scale, span.stop * scale)


def spans(length: int, tile: int, halo: int) -> list[Span]:
    """Cut `length` pixels into tiles; all are multiples of the graphs' size rule."""
    starts = range(0, length, tile)
    return [
        Span(slice(a, min(a + tile, length)), slice(max(0, a - halo), min(a + tile + halo, length))) for a in starts
    ]


def tiles(height: int, width: int, tile: int, halo: int) -> Iterator[tuple[Span, Span]]:
    """Rows and columns of every tile."""
    for rows in spans(height, tile, halo):
        for columns in spans(width, tile, halo):
            yield rows, columns


def round_up(length: int, multiple: int) -> int:
    """Smallest multiple that is at least `length`."""
    return -(-length // multiple) * multiple


def cut(pixels: Pixels, rows: slice, columns: slice) -> Pixels:
    """Part of a picture (H, W, 3), as (1, h, w, 3); beyond the lower and right edge, the edge is repeated."""
    height, width = pixels.shape[:2]
    part = pixels[rows.start : min(rows.stop, height), columns.start : min(columns.stop, width)]
    missing = ((0, rows.stop - rows.start - part.shape[0]), (0, columns.stop - columns.start - part.shape[1]), (0, 0))
    if any(after for _, after in missing):
        part = np.pad(part, missing, mode="edge")
    return np.ascontiguousarray(part)[None]
