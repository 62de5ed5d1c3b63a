"""The upscaler: pictures to larger ones, tile by tile."""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt

from vaert.errors import OptionError
from vaert.image import check_pixels
from vaert.package import UPSCALER, Package, find_package
from vaert.resample import upscale as bicubic
from vaert.runtime.backends import Backend, open_backend
from vaert.runtime.channels import is_grey, join, split
from vaert.runtime.noise import normal_noise
from vaert.runtime.tiling import Span, cut, enlarged, tiles

Pixels = npt.NDArray[np.uint8]
GRAPH = "upscaler"
DEFAULT_SCALE = 4
TILE = 384  # small pixels; larger pictures than UNTILED are cut into tiles of this side
UNTILED = 1 << 18  # small pixels


class Upscaler:
    """One model on one backend; makes pictures of any size from 1x1 larger.

    model: a bundled model's name or a package folder, the bundled one of `scale` if None. scale: of the model if None,
    then 4. backend: `auto`, a name, or a backend. threads: all cores if None. Not to be shared between threads. Raises
    ModelError, BackendError, MissingExtraError, OptionError.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Package | None = None,
        *,
        scale: int | None = None,
        backend: str | Backend = "auto",
        threads: int | None = None,
    ) -> None:
        self.package = find_upscaler(model, scale=scale)
        geometry = self.package.manifest.geometry
        self.scale = int(geometry["scale"])
        self._latents, self._halo = int(geometry["latents"]), int(geometry["halo"])
        self._runner = open_backend(backend, threads=threads, package=self.package).load(self.package, GRAPH)

    def upscale(self, image: Pixels, *, detail: float = 0.0, seed: int = 0, tile: int | None = None) -> Pixels:
        """Larger picture, uint8 (scale H, scale W[, C]), of (H, W), (H, W, 2 | 3 | 4): grey, grey + alpha, RGB, RGBA.

        detail: temperature of z, 0..1: 0 is the prior's mean, the best guess, and the same bytes every time; 1 draws z
        from the prior. seed: 0..2^64 - 1, of what is drawn. tile: small pixels, side of the tiles, which change nothing
        but memory; chosen by size if None. Alpha is upscaled by a bicubic filter. Raises OptionError, BackendError.
        """
        if not 0 <= detail <= 1:
            raise OptionError(f"detail must be 0 to 1, not {detail:g}")
        if tile is not None and tile < 1:
            raise OptionError(f"tile must be at least 1, not {tile}")
        colour, alpha = split(check_pixels(image))
        large = self._colour(colour, detail=detail, seed=seed, tile=tile or default_tile(*colour.shape[:2]))
        return join(large, None if alpha is None else bicubic(alpha, self.scale), grey=is_grey(image))

    def _colour(self, colour: Pixels, *, detail: float, seed: int, tile: int) -> Pixels:
        """The same for RGB (H, W, 3) alone."""
        height, width = colour.shape[:2]
        scale = self.scale
        large = np.empty((scale * height, scale * width, 3), np.uint8)
        for rows, columns in tiles(Span.whole(height), Span.whole(width), (tile, tile), self._halo):
            noise = self._noise(rows.outer, columns.outer, detail=detail, seed=seed)
            out = self._runner.run({"pixels": cut(colour, rows.outer, columns.outer), "noise": noise[None]})["large"]
            inner = enlarged(rows.inner(), scale), enlarged(columns.inner(), scale)
            large[enlarged(rows.core, scale), enlarged(columns.core, scale)] = out[0][inner]
        return large

    def _noise(self, rows: slice, columns: slice, *, detail: float, seed: int) -> npt.NDArray[np.float32]:
        """What the graph adds to z, in standard deviations of the prior, (h, w, latents)."""
        if not detail:
            return np.zeros((rows.stop - rows.start, columns.stop - columns.start, self._latents), np.float32)
        return np.float32(detail) * normal_noise(seed, rows, columns, self._latents)


def find_upscaler(model: str | os.PathLike[str] | Package | None, *, scale: int | None) -> Package:
    """The package that `Upscaler` would use. ModelError if there is none, OptionError if its scale is another."""
    if model is None:
        model = f"upscale-x{DEFAULT_SCALE if scale is None else scale}"
    package = (model if isinstance(model, Package) else find_package(model)).require(UPSCALER)
    found = package.manifest.geometry["scale"]
    if scale not in (None, found):
        raise OptionError(
            f"model {package.manifest.name} upscales by {found}, not by {scale}: leave out one of the two"
        )
    return package


def default_tile(height: int, width: int) -> int:
    """Side of the tiles of a picture of this size, in small pixels."""
    return max(height, width) if height * width <= UNTILED else TILE
