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

    @staticmethod
    def whole(length: int) -> Span:
        """All of an axis."""
        return Span(slice(0, length), slice(0, length))

    def inner(self, stride: int = 1) -> slice:
        """The core within the outer part, in units of `stride` pixels."""
        return within(self.core, self.outer.start, stride)


def within(span: slice, start: int, stride: int = 1) -> slice:
    """A pixel span counted from `start`, in units of `stride` pixels, which divides all of them."""
    return slice((span.start - start) // stride, (span.stop - start) // stride)


def scaled(span: slice, stride: int) -> slice:
    """A pixel span that starts and ends on multiples of `stride`, in units of `stride` pixels."""
    return slice(span.start // stride, span.stop // stride)


def enlarged(span: slice, scale: int) -> slice:
    """The same span of a picture that is `scale` times larger."""
    return slice(span.start * scale, span.stop * scale)


def spans(whole: Span, tile: int, halo: int) -> list[Span]:
    """Cut the core of `whole` into tiles of at most `tile` pixels that see `halo` more, within its outer part."""
    cores = (
        slice(start, min(start + tile, whole.core.stop)) for start in range(whole.core.start, whole.core.stop, tile)
    )
    return [
        Span(core, slice(max(whole.outer.start, core.start - halo), min(whole.outer.stop, core.stop + halo)))
        for core in cores
    ]


def tiles(rows: Span, columns: Span, tile: tuple[int, int], halo: int) -> Iterator[tuple[Span, Span]]:
    """Rows and columns of every tile of at most (height, width) `tile`, row by row."""
    for row in spans(rows, tile[0], halo):
        for column in spans(columns, tile[1], halo):
            yield row, column


def tile_size(rows: Span, columns: Span, *, halo: int, most: int, multiple: int) -> tuple[int, int]:
    """Height and width of the tiles that together see the fewest pixels of a region, none of them more than `most`.

    Sides are multiples of `multiple`, the last ones of a row or column may be shorter.
    """
    best: tuple[int, tuple[int, int]] | None = None
    width = columns.core.stop - columns.core.start
    for down in range(1, _most_pieces(rows, multiple) + 1):
        high, tallest, height = _even(rows, down, multiple, halo)
        if best is not None and height * width >= best[0]:
            break  # more tiles see more
        for across in range(1, _most_pieces(columns, multiple) + 1):
            wide, widest, seen = _even(columns, across, multiple, halo)
            if tallest * widest <= most or (high, wide) == (multiple, multiple):
                if best is None or height * seen < best[0]:
                    best = height * seen, (high, wide)
                break
    assert best is not None, "tiles of the smallest sides are always allowed"
    return best[1]


def _most_pieces(span: Span, multiple: int) -> int:
    length: int = span.core.stop - span.core.start
    return -(-length // multiple)


def _even(span: Span, pieces: int, multiple: int, halo: int) -> tuple[int, int, int]:
    """The side of equal tiles; how much the largest of them sees, and all of them together."""
    side = round_up(-(-(span.core.stop - span.core.start) // pieces), multiple)
    seen: list[int] = [tile.outer.stop - tile.outer.start for tile in spans(span, side, halo)]
    return side, max(seen), sum(seen)


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
