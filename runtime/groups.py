"""The format's groups one after the other, and strips of what the next ones see of them: memory of one group.

Networks run on regions of a picture that come row by row and tile it. What reaches across their borders is kept in
strips along them: of the region to the left, and of the whole row of regions above.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from vaert.bitstream import GROUP_SIZE
from vaert.runtime.tiling import Span

T = TypeVar("T", bound=np.generic)
REMNANT = 256  # pixels; what the encoder would leave for a last region of less it takes along


@dataclass(frozen=True)
class Line:
    """One row or column of groups, in pixels, padding included.

    encoder: what to analyse when its turn comes, so that the latents around the group are there. decoder: what can be
    synthesised once its latents are there. kept: the length at the end of either, with what was kept before, that the
    next line needs; 0 in the last one.
    """

    group: slice
    seen: Span  # the group, and around it what the encoder keeps and has analysed
    encoder: slice
    encoder_kept: int
    decoder: Span
    decoder_kept: int


def lines(length: int, *, encoder: int, decoder: int) -> list[Line]:
    """The rows or columns of groups of a padded side; `encoder`, `decoder`: how far around a group each sees, not 0."""
    made: list[Line] = []
    analysed = synthesised = 0
    for start in range(0, length, GROUP_SIZE):
        stop = min(start + GROUP_SIZE, length)
        last = stop == length
        known = stop + encoder if stop + encoder + REMNANT < length else length
        ready = length if last else stop - decoder
        made.append(
            Line(
                group=slice(start, stop),
                seen=Span(slice(start, stop), slice(max(0, start - encoder), known)),
                encoder=slice(analysed, known),
                encoder_kept=0 if last else known - (stop - encoder),
                decoder=Span(slice(synthesised, ready), slice(max(0, synthesised - decoder), stop)),
                decoder_kept=0 if last else 2 * decoder,
            )
        )
        analysed, synthesised = known, ready
    return made


def grid(size: tuple[int, int], *, encoder: int, decoder: int) -> Iterator[tuple[Line, Line]]:
    """Row and column of each group of a padded picture (height, width), in the order of the format."""
    rows, columns = (lines(length, encoder=encoder, decoder=decoder) for length in size)
    for row in rows:
        for column in columns:
            yield row, column


class Strips:
    """Regions (h, w, C) of one picture, given row by row, joined with the strips kept of the regions before them."""

    def __init__(self, width: int) -> None:
        self._width, self._column = width, 0
        self._above: npt.NDArray[np.generic] | None = None
        self._below: npt.NDArray[np.generic] | None = None
        self._left: npt.NDArray[np.generic] | None = None

    def join(self, region: npt.NDArray[T], *, rows_kept: int, columns_kept: int) -> npt.NDArray[T]:
        """The region with the kept rows above it and the kept columns to its left; then keep as much of the result.

        A row of regions ends with the one of which no columns are kept. A region may be empty.
        """
        height, width, channels = region.shape
        above, left = self._above, self._left
        top, side = 0 if above is None else len(above), 0 if left is None else left.shape[1]
        joined = region
        if top or side:
            joined = np.empty((top + height, side + width, channels), region.dtype)
            joined[top:, side:] = region
            if above is not None:
                joined[:top, side:] = above[:, self._column : self._column + width]
            if left is not None:
                joined[:, :side] = left
        if rows_kept:
            if self._below is None:
                self._below = np.empty((rows_kept, self._width, channels), region.dtype)
            self._below[:, self._column : self._column + width] = joined[len(joined) - rows_kept :, side:]
        self._column += width
        if columns_kept:
            self._left = joined[:, joined.shape[1] - columns_kept :].copy()
        else:
            self._above, self._below, self._left, self._column = self._below, None, None, 0
        return joined
