"""The transforms at run time: analysis, hyper-analysis and synthesis of pictures of any size, tile by tile."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import numpy.typing as npt

from vaert.package import Package
from vaert.runtime.backends.base import Backend, Runner
from vaert.runtime.groups import Line, grid
from vaert.runtime.tiling import Pixels, Span, cut, round_up, tile_size, tiles, within

Float = npt.NDArray[np.float32]
Region = tuple[Span, Span]  # rows and columns
Tile = tuple[slice, slice, Pixels]  # rows and columns in the padded picture, and what is there
TILE_PIXELS = 1_100_000  # that a tile sees at most: more do not fit the caches of CPUs, fewer see too much twice
SIXTEENTHS = 16


class Networks:
    """Encoder, hyper-encoder and decoder of one package on one backend. Graphs are loaded when first used."""

    def __init__(self, package: Package, backend: Backend, *, tile: int | None = None) -> None:
        self._package, self._backend, self._tile = package, backend, tile
        geometry = package.manifest.geometry
        self._multiple, self._stride = geometry["size_multiple"], geometry["latent_stride"]
        self._hyper_stride, self._halo = geometry["hyper_stride"], geometry["halo"]
        self._latents, self._hyper = (int(package.manifest.config[name]) for name in ("latents", "hyper"))

    def groups(self, height: int, width: int) -> Iterator[tuple[Line, Line]]:
        """Row and column of each group of a picture, in the order of the format."""
        return grid(self.padded(height, width), encoder=self._halo["hyper_encoder"], decoder=self._halo["decoder"])

    @cached_property
    def encoder(self) -> Runner:
        """Graph from pixels to latents."""
        return self._backend.load(self._package, "encoder")

    @cached_property
    def hyper_encoder(self) -> Runner:
        """Graph from latents and gains to hyper-latents."""
        return self._backend.load(self._package, "hyper_encoder")

    @cached_property
    def decoder(self) -> Runner:
        """Graph from latents in sixteenths and inverse gains to pixels."""
        return self._backend.load(self._package, "decoder")

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """Height and width rounded up to the graphs' size rule."""
        return round_up(height, self._multiple), round_up(width, self._multiple)

    def analyse(self, pixels: Pixels, rows: slice, columns: slice) -> Float:
        """A part of a picture, uint8 RGB (H, W, 3), to its latents before the gain, float32 (h, w, M)."""
        height, width = self.padded(*pixels.shape[:2])
        region = Span(rows, slice(0, height)), Span(columns, slice(0, width))
        size = (rows.stop - rows.start) // self._stride, (columns.stop - columns.start) // self._stride
        y: Float | None = None
        for tile in self._tiles(region, "encoder"):
            out = self.encoder.run({"pixels": cut(pixels, *(span.outer for span in tile))})["latents"]
            part: Float = out[0][tuple(span.inner(self._stride) for span in tile)]
            if part.shape[:2] == size:
                return part
            y = np.empty((*size, self._latents), np.float32) if y is None else y
            y[_of(tile, region, self._stride)] = part
        return np.empty((*size, self._latents), np.float32) if y is None else y

    def hyper_analyse(self, y: Float, gain: Float, region: Region) -> npt.NDArray[np.int8]:
        """Latents of a region, before the gain, (h, w, M), to hyper-latents of its core, int8 (h / 4, w / 4, hyper)."""
        size = ((span.core.stop - span.core.start) // self._hyper_stride for span in region)
        whole = np.empty((*size, self._hyper), np.int8)
        for tile in self._tiles(region, "hyper_encoder"):
            part = np.ascontiguousarray(y[_seen(tile, region, self._stride)])
            z = self.hyper_encoder.run({"latents": part[None], "gain": gain})["z"]
            whole[_of(tile, region, self._hyper_stride)] = z[0][tuple(span.inner(self._hyper_stride) for span in tile)]
        return whole

    def synthesise(self, s: npt.NDArray[np.int32], inverse_gain: Float, region: Region) -> Iterator[Tile]:
        """Latents of a region in sixteenths, int32 (h, w, M), to the pixels of its core, tile by tile."""
        scale = inverse_gain / np.float32(SIXTEENTHS)
        for tile in self._tiles(region, "decoder"):
            part = np.ascontiguousarray(s[_seen(tile, region, self._stride)])
            out = self.decoder.run({"latents": part[None], "scale": scale})["pixels"]
            row, column = tile
            yield row.core, column.core, out[0, row.inner(), column.inner()]

    def _tiles(self, region: Region, graph: str) -> Iterator[Region]:
        if any(span.core.start == span.core.stop for span in region):
            return
        halo = self._halo[graph]
        if self._tile is not None:
            sides = self._tile, self._tile
        else:
            multiple = self._multiple if graph == "hyper_encoder" else self._stride
            sides = tile_size(*region, halo=halo, most=TILE_PIXELS, multiple=multiple)
        yield from tiles(*region, sides, halo)


def _of(tile: Region, region: Region, stride: int) -> tuple[slice, ...]:
    """The core of a tile within the core of its region, in units of `stride` pixels."""
    return tuple(within(one.core, whole.core.start, stride) for one, whole in zip(tile, region, strict=True))


def _seen(tile: Region, region: Region, stride: int) -> tuple[slice, ...]:
    """The outer part of a tile within that of its region, in units of `stride` pixels."""
    return tuple(within(one.outer, whole.outer.start, stride) for one, whole in zip(tile, region, strict=True))
