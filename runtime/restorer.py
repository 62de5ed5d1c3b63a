"""The restorer: repairs compression damage and fills holes of pictures, tile by tile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vaert.errors import OptionError
from vaert.image import check_pixels
from vaert.package import RESTORER, Package, find_package
from vaert.runtime.backends import Backend, open_backend
from vaert.runtime.channels import is_grey, join, split
from vaert.runtime.tiling import Span, cut, round_up

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
GRAPH = "restorer"
DEFAULT_MODEL = "restore"
TILE = 1152  # pixels; larger pictures than UNTILED are cut into tiles of at most this side
UNTILED = 1 << 21  # pixels


@dataclass(frozen=True)
class _Task:
    """What becomes of the pixels: `strength` of the repair of known ones, None where they stay as they are."""

    colour: Pixels  # (H, W, 3)
    hidden: Mask | None  # (H, W)
    strength: float | None


class Restorer:
    """One model on one backend; restores pictures of any size from 1x1.

    model: a bundled model's name or a package folder. backend: `auto`, a name, or a backend. threads: all cores if
    None. Not to be shared between threads. Raises ModelError, BackendError, MissingExtraError, OptionError.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Package = DEFAULT_MODEL,
        *,
        backend: str | Backend = "auto",
        threads: int | None = None,
    ) -> None:
        self.package = (model if isinstance(model, Package) else find_package(model)).require(RESTORER)
        geometry = self.package.manifest.geometry
        self._multiple = int(geometry["size_multiple"])
        self._repair_halo, self._fill_halo = (int(geometry["halo"][name]) for name in ("repair", "fill"))
        self._runner = open_backend(backend, threads=threads, package=self.package).load(self.package, GRAPH)

    def restore(
        self,
        image: Pixels,
        mask: npt.ArrayLike | None = None,
        *,
        strength: float | None = None,
        tile: int | None = None,
    ) -> Pixels:
        """Restored picture, uint8 as `image`: (H, W), (H, W, 2 | 3 | 4), grey, grey + alpha, RGB, RGBA.

        Without a mask the whole picture is repaired. A mask alone has its hidden pixels filled and all others stay as
        they are; with `strength`, these are repaired too. Alpha stays as it is.

        Args:
            image: the damaged picture. What it holds where it is hidden does not matter.
            mask: bool or uint8 (H, W), not zero where the picture is hidden; not everywhere.
            strength: 0..1, from the picture as it is to the repaired one. 1 if None and there is no mask.
            tile: pixels, side of the tiles, which change nothing but memory and time; chosen by size if None.

        Raises:
            OptionError, BackendError.
        """
        if strength is not None and not 0 <= strength <= 1:
            raise OptionError(f"strength must be 0 to 1, not {strength:g}")
        if tile is not None and (tile < self._multiple or tile % self._multiple):
            raise OptionError(f"tile must be a multiple of {self._multiple}, not {tile}")
        image = check_pixels(image)
        hidden = None if mask is None else check_mask(mask, *image.shape[:2])
        if hidden is None and strength is None:
            strength = 1.0
        colour, alpha = split(image)
        return join(self._restored(_Task(colour, hidden, strength or None), tile), alpha, grey=is_grey(image))

    def _restored(self, task: _Task, tile: int | None) -> Pixels:
        """RGB (H, W, 3), restored part by part."""
        result = task.colour.copy()
        if task.strength is None and task.hidden is None:
            return result
        for rows, columns in self._parts(task, tile):
            there = result[rows.core, columns.core]
            inner = rows.inner(), columns.inner()
            repaired = self._run(task, rows, columns)[inner][: there.shape[0], : there.shape[1]]
            if task.strength is not None:
                there[:] = _between(there, repaired, task.strength)
            if task.hidden is not None:
                hidden = task.hidden[rows.core, columns.core]
                there[hidden] = repaired[hidden]
        return result

    def _parts(self, task: _Task, tile: int | None) -> Iterator[tuple[Span, Span]]:
        """Rows and columns of what must be computed: all, or where pixels are hidden if the others stay as they are.

        All begin and end on multiples of the graph's size rule, beyond the picture at its right and lower edge.
        """
        height, width = (round_up(side, self._multiple) for side in task.colour.shape[:2])
        whole = tile is None and height * width <= UNTILED
        for top, bottom in _cuts(height, height if whole else tile, self._multiple):
            for left, right in _cuts(width, width if whole else tile, self._multiple):
                rows, columns = slice(top, bottom), slice(left, right)
                if task.strength is None and task.hidden is not None:
                    if not task.hidden[rows, columns].any():
                        continue
                    rows, columns = _around(task.hidden, rows, columns, multiple=self._multiple)
                yield self._with_halo(task.hidden, rows, columns, size=(height, width))

    def _with_halo(
        self, hidden: Mask | None, rows: slice, columns: slice, *, size: tuple[int, int]
    ) -> tuple[Span, Span]:
        """A part and what it must see: further where something is hidden within the network's sight."""
        spans = [_span(part, self._repair_halo, n) for part, n in zip((rows, columns), size, strict=True)]
        if hidden is not None and hidden[spans[0].outer, spans[1].outer].any():
            spans = [_span(part, self._fill_halo, n) for part, n in zip((rows, columns), size, strict=True)]
        return spans[0], spans[1]

    def _run(self, task: _Task, rows: Span, columns: Span) -> Pixels:
        """What the graph makes of a part with its halo, (h, w, 3)."""
        pixels = cut(task.colour, rows.outer, columns.outer)
        if task.hidden is None:
            mask = np.zeros((*pixels.shape[:3], 1), np.uint8)
        else:
            mask = cut(task.hidden.view(np.uint8)[..., None], rows.outer, columns.outer)
        restored: Pixels = self._runner.run({"pixels": pixels, "mask": mask})["restored"][0]
        return restored


def check_mask(mask: npt.ArrayLike, height: int, width: int) -> Mask:
    """A mask as bool (height, width), C-contiguous. OptionError if it is none, or hides everything."""
    found = np.asarray(mask)
    if found.dtype not in (np.bool_, np.uint8) or found.shape != (height, width):
        raise OptionError(
            f"a mask must be bool or uint8 of the picture's shape {(height, width)}, found {found.dtype} {found.shape}"
        )
    hidden = np.ascontiguousarray(found != 0)
    if hidden.all():
        raise OptionError("the mask hides every pixel, expected some known ones to go by: hide less")
    return hidden


def _cuts(length: int, tile: int | None, multiple: int) -> Iterator[tuple[int, int]]:
    """Starts and ends of tiles of side `tile`, or of nearly equal ones of at most TILE."""
    side = tile or round_up(-(-length // -(-length // TILE)), multiple)
    for start in range(0, length, side):
        yield start, min(start + side, length)


def _around(hidden: Mask, rows: slice, columns: slice, *, multiple: int) -> tuple[slice, slice]:
    """The least part of a part, on multiples, that holds all its hidden pixels, of which there are some."""
    part = hidden[rows, columns]
    spans = []
    for span, line in ((rows, part.any(1)), (columns, part.any(0))):
        found = np.flatnonzero(line)
        spans.append(
            slice(span.start + found[0] // multiple * multiple, span.start + round_up(found[-1] + 1, multiple))
        )
    return spans[0], spans[1]


def _span(core: slice, halo: int, length: int) -> Span:
    return Span(core, slice(max(0, core.start - halo), min(length, core.stop + halo)))


def _between(before: Pixels, after: Pixels, share: float) -> Pixels:
    """From `before` (share 0) to `after` (share 1)."""
    if share == 1:
        return after
    mixed = before + np.float32(share) * (after.astype(np.float32) - before)
    return np.rint(mixed).astype(np.uint8)
